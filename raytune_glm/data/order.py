"""Which rows each step trains on: a pure function of seed and step, so that resuming costs nothing.

Rows are shuffled anew each epoch and the epochs are laid end to end; global batch `step` is the
slice `[step * batch_size, (step + 1) * batch_size)` of that endless row. A batch may therefore span
two epochs: every batch is full, no row is left out, and no epoch ends on a small batch whose
gradient would weigh its rows more. With `lengths`, the rows of a batch are of like length. Read
next: `collation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
"""Row numbers, shape [num_rows]."""

BATCHES_SORTED_TOGETHER = 50
"""Batches whose rows are sorted by length among themselves, as transformers'
`get_length_grouped_indices` has it: enough that a batch's rows are of like length, and few enough
that batches differ from epoch to epoch."""


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The order of the rows of one run.

    Raises:
        ValueError: A count is below 1 or the seed below 0.
    """

    num_rows: int
    """Rows in the training split."""
    batch_size: int
    """Rows a step, over all ranks; may exceed `num_rows`."""
    seed: int
    lengths: Indices | None = field(default=None, compare=False)
    """Tokens of each row, where batches are to be of rows of like length; shape [num_rows]."""
    _grouped: dict[int, Indices] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(
                "`num_rows` and `batch_size` must be >= 1 and `seed` >= 0, but got "
                f"num_rows={self.num_rows}, batch_size={self.batch_size} and seed={self.seed}"
            )

    def batch_at(self, step: int) -> Indices:
        """Give the rows of one step, without those of the steps before.

        Args:
            step: Step number, from 0.

        Returns:
            `batch_size` row numbers, shape [batch_size].
        """
        first = step * self.batch_size
        epochs = range(first // self.num_rows, (first + self.batch_size - 1) // self.num_rows + 1)
        rows = np.concatenate([self._epoch(epoch) for epoch in epochs])
        start = first % self.num_rows
        return rows[start : start + self.batch_size]

    def epoch_at(self, step: int) -> float:
        """Say how many epochs lie before a step."""
        return step * self.batch_size / self.num_rows

    def _epoch(self, epoch: int) -> Indices:
        """Give the rows of an epoch in their order."""
        if self.lengths is None:
            return shuffled(self.num_rows, self.seed, epoch)
        if epoch not in self._grouped:
            # A batch spans two epochs at most, unless it spans many small ones.
            for former in [e for e in self._grouped if e < epoch - 1]:
                del self._grouped[former]
            self._grouped[epoch] = self._group(epoch, self.lengths)
        return self._grouped[epoch]

    def _group(self, epoch: int, lengths: Indices) -> Indices:
        """Make each batch that lies within an epoch one of rows of like length.

        The batches come in random order, and the rows of batches that span two epochs stay random.
        """
        rows = shuffled(self.num_rows, self.seed, epoch)
        start = -epoch * self.num_rows % self.batch_size
        num_batches = max(0, self.num_rows - start) // self.batch_size
        end = start + num_batches * self.batch_size
        together = BATCHES_SORTED_TOGETHER * self.batch_size
        blocks = [rows[at : min(end, at + together)] for at in range(start, end, together)]
        if not blocks:
            return rows
        by_length = [block[np.argsort(lengths[block], kind="stable")] for block in blocks]
        batches = np.concatenate(by_length).reshape(num_batches, self.batch_size)
        order = shuffled(num_batches, self.seed, epoch)
        return np.concatenate([rows[:start], batches[order].ravel(), rows[end:]])


def micro_batches(
    indices: Indices, *, rank: int, world_size: int, micro_batch_size: int
) -> list[Indices]:
    """Give a rank its piece of a global batch, in micro-batches.

    Every rank gets the same number of rows and of micro-batches; both are contiguous pieces, so the
    rows of all ranks, in the order of ranks, are the global batch whatever the sizes. The last
    micro-batch is smaller where the rank's rows do not divide evenly.

    Args:
        indices: A global batch, shape [batch_size].
        rank: This worker, from 0.
        world_size: Number of workers.
        micro_batch_size: Most rows in one forward pass.

    Returns:
        Row numbers, each array of shape [<= micro_batch_size].

    Raises:
        ValueError: The global batch does not divide evenly among the workers.
    """
    if len(indices) % world_size:
        raise ValueError(
            "the global batch size must be a multiple of the number of workers, but got "
            f"{len(indices)} rows and {world_size} workers"
        )
    share = len(indices) // world_size
    mine = indices[rank * share : (rank + 1) * share]
    return [mine[at : at + micro_batch_size] for at in range(0, share, micro_batch_size)]


@lru_cache(maxsize=4)
def shuffled(num_rows: int, seed: int, epoch: int) -> Indices:
    """Shuffle the rows of one epoch.

    Sorting raw PCG64 output, and not `Generator.permutation`: NumPy keeps the stream of a bit
    generator for good, but may change what a `Generator` makes of it (NEP 19).

    Args:
        num_rows: Rows in the training split.
        seed: The run's seed.
        epoch: Epoch number, from 0.

    Returns:
        The numbers 0 to `num_rows - 1`, read-only, shape [num_rows].
    """
    keys = np.random.PCG64([seed, epoch]).random_raw(num_rows)
    rows = np.argsort(keys, kind="stable").astype(np.int64)
    rows.flags.writeable = False
    return rows
