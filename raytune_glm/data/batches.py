"""What each step trains on, as one worker's tensors. Read next: `raytune_glm.worker`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raytune_glm.data.collation import collate
from raytune_glm.data.joining import collate_joined, joined_micro_batches
from raytune_glm.data.order import BatchOrder, Indices, micro_batches

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """The rows of one step."""

    micro_batches: list[dict[str, torch.Tensor]]
    """This worker's, a forward pass each; every worker has as many."""
    num_label_tokens: int
    """Tokens that carry loss, all workers."""
    num_tokens: int
    """Tokens, padding left out, all workers."""
    num_pads: int
    """Padding tokens of all workers, were all like this one."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The training rows of one worker, step by step."""

    rows: Dataset
    """Encoded rows, as `encode_splits` gives them."""
    order: BatchOrder
    rank: int
    """This worker, from 0."""
    world_size: int
    micro_batch_size: int
    """Most rows in one forward pass."""
    pad_token_id: int
    joined_length: int | None
    """Most tokens of a row that is joined of several; none: every row by itself."""

    def at(self, step: int) -> StepBatch:
        """Give what step number `step`, from 0, trains on."""
        indices = self.order.batch_at(step)
        counts = self.rows.select_columns(["length", "num_labels"])[indices.tolist()]
        share = len(indices) // self.world_size
        own_tokens = sum(counts["length"][self.rank * share : (self.rank + 1) * share])
        passes = self._micro_batches(indices, counts["length"])
        places = sum(batch["input_ids"].numel() for batch in passes)
        return StepBatch(
            micro_batches=passes,
            num_pads=(places - own_tokens) * self.world_size,
            num_label_tokens=sum(counts["num_labels"]),
            num_tokens=sum(counts["length"]),
        )

    def _micro_batches(self, indices: Indices, lengths: list[int]) -> list[dict[str, torch.Tensor]]:
        if self.joined_length is None:
            passes = micro_batches(
                indices,
                rank=self.rank,
                world_size=self.world_size,
                micro_batch_size=self.micro_batch_size,
            )
            return [
                collate([self.rows[i] for i in own.tolist()], pad_token_id=self.pad_token_id)
                for own in passes
            ]
        joined_passes = joined_micro_batches(
            indices,
            lengths,
            rank=self.rank,
            world_size=self.world_size,
            micro_batch_size=self.micro_batch_size,
            max_length=self.joined_length,
        )
        return [
            collate_joined(
                [[self.rows[i] for i in row.tolist()] for row in own],
                pad_token_id=self.pad_token_id,
            )
            for own in joined_passes
        ]
