"""A model's answers: how they are drawn, many at once or one as it is spoken.

Read next: `prediction`, `conversation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raytune_glm.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raytune_glm.models.family import Family

_BROKEN = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet one."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; a checkpoint's own `generation_config.json` changes nothing."""

    max_new_tokens: int
    """Longest answer."""
    temperature: float = 0.0
    """0 takes the likeliest token always; above, tokens are drawn, the more freely the higher."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Draw from so many likeliest tokens; 0: from all."""
    num_beams: int = 1
    """Answers that are followed at once, of which the likeliest is given."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that stand in the text already become less likely (arXiv 1909.05858)."""

    def __post_init__(self) -> None:
        """Refuse what is out of range or would have no effect."""
        for name, holds, rule in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not holds:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be {rule}, but got {getattr(self, name)}"
                )
        if self.temperature == 0 and (self.top_p != 1 or self.top_k):
            raise ConfigError(
                "--top-p and --top-k choose among tokens that are drawn, but --temperature 0 draws "
                f"none, and got top_p={self.top_p:g}, top_k={self.top_k}: add --temperature 0.8, "
                "or leave them out"
            )

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of transformers' `generate`."""
        common = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.temperature == 0:
            # Its defaults, named: a checkpoint's own would be warned of, as being without effect.
            return {**common, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {**common, "do_sample": True, **drawn}


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A model with what turns its ids to text."""

    model: PreTrainedModel
    family: Family
    tokenizer: PreTrainedTokenizerBase
    device: torch.device | str
    """Where the model is."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        synced_gpus: bool = False,
        **options: Any,
    ) -> list[list[int]]:
        """Answer prompts in one batch.

        Args:
            prompts: Their ids, at least one prompt.
            sampling: How the next token is chosen.
            synced_gpus: Whether all ranks must make as many forward passes as the others (ZeRO-3).
            **options: Further arguments of `generate`, such as a streamer.

        Returns:
            The ids of each answer, what follows its end among them.
        """
        import torch

        from raytune_glm.data.collation import collate, pad_token_id

        pad = pad_token_id(self.tokenizer)
        batch = collate(
            [{"input_ids": ids} for ids in prompts], pad_token_id=pad, padding_side="left"
        )
        width = batch["input_ids"].shape[1]
        generate: Any = self.model.generate  # transformers leaves it untyped
        with torch.inference_mode():
            output = generate(
                **{name: tensor.to(self.device) for name, tensor in batch.items()},
                **sampling.arguments(),
                eos_token_id=self.family.stop_token_ids(self.tokenizer),
                pad_token_id=pad,
                synced_gpus=synced_gpus,
                **options,
            )
        answers: list[list[int]] = output[:, width:].tolist()
        return answers

    def text(self, ids: Sequence[int]) -> str:
        """Turn the ids of an answer into its text."""
        return self.family.answer(self.tokenizer, ids)

    def num_tokens(self, ids: Sequence[int]) -> int:
        """Count the tokens of an answer, its end with them and the pads behind it without."""
        stops = set(self.family.stop_token_ids(self.tokenizer))
        return next((place for place, token in enumerate(ids, 1) if token in stops), len(ids))


class AnswerStream:
    """Writes an answer as its tokens come: a streamer of transformers' `generate`.

    What is written never changes afterwards: a character whose bytes have not all come yet is held
    back, and so are blanks at the end, so that all pieces together are the answer's text.

    Args:
        text: Turns the ids so far into text.
        write: Takes the next piece.
    """

    def __init__(self, text: Callable[[Sequence[int]], str], write: Callable[[str], None]) -> None:
        self._text = text
        self._write = write
        self._ids: list[int] | None = None
        self.written = ""

    def put(self, ids: torch.Tensor) -> None:
        """Take the prompt, which is not written, or the next tokens."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += ids.flatten().tolist()
        self._write_up_to(self._text(self._ids).rstrip(_BROKEN).rstrip())

    def end(self) -> None:
        """Write what was held back."""
        self._write_up_to(self._text(self._ids or []))

    def _write_up_to(self, text: str) -> None:
        if text.startswith(self.written) and len(text) > len(self.written):
            self._write(text[len(self.written) :])
            self.written = text
