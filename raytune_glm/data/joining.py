"""Several training rows one behind the other in one row of a batch: less padding, the same result.

Positions start anew at each row, which tells the model to keep them apart (`Family.joins_rows`).
What is trained does not change: a step has the rows that it has without, and its loss is the mean
over their label tokens. Only passes get fewer and fuller.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raytune_glm.data.order import Indices
from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    import torch

Joined = list[Indices]
"""A pass: for each of its rows, the numbers of the training rows in it."""


def joined_micro_batches(
    indices: Indices,
    lengths: Sequence[int],
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    max_length: int,
) -> list[Joined]:
    """Give a rank its piece of a global batch, joined, in as few passes as the ranks can all make.

    Args:
        indices: A global batch, shape [batch_size].
        lengths: Tokens of each of its rows, each <= `max_length`.
        rank: This worker, from 0.
        world_size: Number of workers; it divides `batch_size`.
        micro_batch_size: Most joined rows in one forward pass.
        max_length: Most tokens of a joined row.

    Returns:
        The passes, on every rank the same number of them, none of them empty.
    """
    share = len(indices) // world_size
    shares = [range(r * share, (r + 1) * share) for r in range(world_size)]
    filled = [_first_fit(places, lengths, max_length) for places in shares]
    num_passes = max(-(-len(rows) // micro_batch_size) for rows in filled)
    own = filled[rank]
    while len(own) < num_passes:  # another rank needs more passes, and all make as many
        fullest = max(range(len(own)), key=lambda row: len(own[row]))
        row = own.pop(fullest)
        own += [row[: len(row) // 2], row[len(row) // 2 :]]
    own.sort(key=lambda row: sum(lengths[place] for place in row))
    cuts = [len(own) * cut // num_passes for cut in range(num_passes + 1)]
    return [[indices[row] for row in own[first:last]] for first, last in itertools.pairwise(cuts)]


def _first_fit(places: Sequence[int], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Put each row, the longest first, into the first joined row that has room for it."""
    joined: list[list[int]] = []
    room: list[int] = []
    for place in sorted(places, key=lambda place: -lengths[place]):
        fitting = (row for row, left in enumerate(room) if left >= lengths[place])
        row = next(fitting, len(joined))
        if row == len(joined):
            joined.append([])
            room.append(max_length)
        joined[row].append(place)
        room[row] -= lengths[place]
    return joined


def collate_joined(
    rows: Sequence[Sequence[Mapping[str, Any]]], *, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Join rows and pad the joined ones, on the right, to the longest.

    Args:
        rows: For each joined row, the rows in it, with `input_ids` and `labels`.
        pad_token_id: Id of the padding token.

    Returns:
        `input_ids`, `position_ids` (from 0 in each row, and again in the padding) and `labels`
        (`IGNORED_LABEL` on padding and on the first token of each row, which the row before it does
        not predict): int64 tensors of shape [len(rows), tokens].
    """
    import torch

    length = max(sum(len(row["input_ids"]) for row in joined) for joined in rows)
    shape = (len(rows), length)
    batch = {
        "input_ids": torch.full(shape, pad_token_id, dtype=torch.int64),
        "position_ids": torch.zeros(shape, dtype=torch.int64),
        "labels": torch.full(shape, IGNORED_LABEL, dtype=torch.int64),
    }
    for line, joined in enumerate(rows):
        start = 0
        for row in joined:
            end = start + len(row["input_ids"])
            batch["input_ids"][line, start:end] = torch.as_tensor(row["input_ids"])
            batch["position_ids"][line, start:end] = torch.arange(end - start)
            batch["labels"][line, start + 1 : end] = torch.as_tensor(row["labels"])[1:]
            start = end
        batch["position_ids"][line, start:] = torch.arange(length - start)
    return batch
