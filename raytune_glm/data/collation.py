"""Rows of unequal length as one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def collate(
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int,
    padding_side: Literal["right", "left"] = "right",
    multiple_of: int = 1,
) -> dict[str, torch.Tensor]:
    """Pad rows to the longest one: on the right to train, on the left to generate.

    Args:
        rows: At least one, each with `input_ids` and, in all rows or none, `labels`; other columns
            are left aside.
        pad_token_id: Id of the padding token.
        padding_side: Where the padding goes.
        multiple_of: The batch's length is a multiple of this (8 for tensor cores), >= 1.

    Returns:
        `input_ids`, `attention_mask` (1 = token, 0 = padding) and, where the rows have them,
        `labels` (`IGNORED_LABEL` on padding): int64 tensors of shape [len(rows), length].
    """
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    length = -(-longest // multiple_of) * multiple_of

    def padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        batch = torch.full((len(sequences), length), fill, dtype=torch.int64)
        for line, sequence in zip(batch, sequences, strict=True):
            start = 0 if padding_side == "right" else length - len(sequence)
            line[start : start + len(sequence)] = torch.as_tensor(sequence, dtype=torch.int64)
        return batch

    input_ids = [row["input_ids"] for row in rows]
    batch = {
        "input_ids": padded(input_ids, pad_token_id),
        "attention_mask": padded([[1] * len(ids) for ids in input_ids], 0),
    }
    if "labels" in rows[0]:
        batch["labels"] = padded([row["labels"] for row in rows], IGNORED_LABEL)
    return batch


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with; masks hide it, so a tokenizer without one may use any."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    return 0
