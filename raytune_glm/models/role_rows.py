"""Rows and prompts of the ChatGLM3 and GLM-4 chat formats: a role token before each turn.

A row is the start tokens, then `<|role|>`, a line break and the text of each turn, then the end
token. Loss is taken on the assistant's turns, their role token and line break included, as the
published training code (ChatGLM-Finetuning at a137ad63) does. Read next: `chatglm3`, `chatglm4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raytune_glm.models.family import IGNORED_LABEL, Encoded, Message, Role
from raytune_glm.models.turns import Turn, check_conversation, latest, text_ids, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLE_TOKENS: dict[Role, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
}


@dataclass(frozen=True, kw_only=True)
class RoleFormat:
    """What tells one generation's format from another's."""

    start: tuple[str, ...]
    """Tokens before the first turn."""
    end: str
    """Token after the last answer."""
    num_reserved: int
    """Tokens of a row of greatest length that neither source nor answer takes."""

    def encode_row(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """Encode a training row; see `Family.encode`."""
        check_conversation(messages, last=("assistant",))
        source, labels, cut = self._source(tokenizer, messages[:-1], max_source_length)
        answer = text_ids(tokenizer, messages[-1].content)
        budget = max(0, max_length - self.num_reserved - (len(source) - len(self.start)))
        turn = _turn_start(tokenizer, "assistant")
        tail = [*turn, *answer[:budget], token_id(tokenizer, self.end)]
        return Encoded(
            input_ids=source + tail, labels=labels + tail, truncated=cut or len(answer) > budget
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """Encode a prompt, up to `<|assistant|>`; the line break after it is generated."""
        check_conversation(messages, last=("user", "tool"))
        source, _, _ = self._source(tokenizer, messages, max_source_length)
        return [*source, _turn_start(tokenizer, "assistant")[0]]

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Give the end token, and the roles that can follow the assistant's."""
        names = (self.end, _ROLE_TOKENS["user"], _ROLE_TOKENS["tool"])
        return [token_id(tokenizer, name) for name in names]

    def _source(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        max_source_length: int,
    ) -> tuple[list[int], list[int], bool]:
        """Encode the turns before an answer; an over-long source loses old turns, then its end."""
        turns = [
            Turn(
                role=message.role,
                ids=_turn_start(tokenizer, message.role) + text_ids(tokenizer, message.content),
            )
            for message in messages
        ]
        kept = latest(turns, max_source_length)
        ids = [token for turn in kept for token in turn.ids]
        labels = [label for turn in kept for label in turn.labels]
        start = [token_id(tokenizer, name) for name in self.start]
        return (
            start + ids[:max_source_length],
            [IGNORED_LABEL] * len(start) + labels[:max_source_length],
            len(kept) < len(turns) or len(ids) > max_source_length,
        )


def _turn_start(tokenizer: PreTrainedTokenizerBase, role: Role) -> list[int]:
    return [token_id(tokenizer, _ROLE_TOKENS[role]), *text_ids(tokenizer, "\n")]
