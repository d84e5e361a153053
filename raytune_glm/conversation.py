"""A conversation with a model: what was said, kept within what the model reads.

Read next: `raytune_glm.chat`, the command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raytune_glm.answering import AnswerStream, Sampling, Speaker
from raytune_glm.errors import DataError
from raytune_glm.models.family import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNLIMITED = 10**9
"""More tokens than a conversation has."""


@dataclass(kw_only=True)
class Conversation:
    """Turns of a user and a model."""

    speaker: Speaker
    sampling: Sampling
    max_length: int
    """Longest conversation in tokens, the next answer included."""
    system: str | None = None
    """What the model is told before the first question, and never forgets."""
    turns: list[Message] = field(default_factory=list)
    """Questions and answers in turn, the oldest first."""

    def clear(self) -> None:
        """Forget what was said."""
        self.turns.clear()

    def ask(
        self, question: str, write: Callable[[str], None], is_stopped: Callable[[], bool]
    ) -> int:
        """Ask a question; have the answer written as it comes, and keep both.

        Args:
            question: What the user says.
            write: Takes each piece of the answer.
            is_stopped: Asked after each token; True ends the answer there.

        Returns:
            How many of the oldest exchanges had to be forgotten to make room.

        Raises:
            DataError: The question alone is longer than the model reads; it is not kept.
        """
        asked = [*self.turns, Message(role="user", parts=(question,))]
        ids, kept = self._fitting(asked)
        num_forgotten = (len(asked) - len(kept)) // 2
        stream = AnswerStream(self.speaker.text, write)
        self.speaker.generate(
            [ids],
            self.sampling,
            streamer=stream,
            stopping_criteria=_stopping(is_stopped),
        )
        self.turns = [*kept, Message(role="assistant", parts=(stream.written,))]
        return num_forgotten

    def _fitting(self, turns: Sequence[Message]) -> tuple[list[int], list[Message]]:
        """Encode the turns, without the oldest exchanges where all are too long."""
        limit = self.max_length - self.sampling.max_new_tokens
        system = [] if self.system is None else [Message(role="system", parts=(self.system,))]
        kept = list(turns)
        while True:
            ids = self.speaker.family.encode_prompt(
                self.speaker.tokenizer, [*system, *kept], max_source_length=_UNLIMITED
            )
            if len(ids) <= limit:
                return ids, kept
            if len(kept) == 1:
                raise DataError(
                    f"a question must have at most {limit} tokens, so that the model's "
                    f"{self.max_length} leave room for an answer of "
                    f"{self.sampling.max_new_tokens}, but this one has {len(ids)}: shorten it, or "
                    "lower --max-new-tokens"
                )
            kept = kept[2:]


def _stopping(is_stopped: Callable[[], bool]) -> Any:
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            return torch.full((len(input_ids),), is_stopped(), device=input_ids.device)

    return StoppingCriteriaList([Stopped()])
