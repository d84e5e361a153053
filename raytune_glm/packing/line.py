"""The rows of all slots, laid end to end in one line of tokens.

Linears and norms treat each token on its own, so that the line needs no padding. Attention alone
must know the rows: for it they are grouped into buckets of like length. Read next: `attention`.

Shape suffixes: T tokens of the line, R rows, G gathered tokens (those of the buckets, with pads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raytune_glm.models.family import IGNORED_LABEL

MAX_BUCKET_WASTE = 0.1
"""Largest share of a bucket that may be padding, beyond which a new bucket is begun."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of one slot."""

    slot: int
    """Which slot's; rows of a slot stand together."""
    input_ids: Sequence[int]
    labels: Sequence[int] = ()
    """As long as `input_ids`, or one longer where the token behind them is asked for, too; empty
    where none is."""
    num_virtual: int = 0
    """Learnt embeddings that stand in the line before the row's tokens (prompt tuning)."""
    num_prefix: int = 0
    """Learnt keys and values that stand before the row in attention alone (P-Tuning v2)."""
    positions: npt.NDArray[np.int64]
    """Position ids of the row's places in the line, virtual ones included, [..., tokens]."""
    context: int = 0
    """Leading places that every place of the row sees, as ChatGLM-6B sees its context."""

    @property
    def length(self) -> int:
        """Places in the line."""
        return self.num_virtual + len(self.input_ids)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Rows that attention takes at a time, padded on the right to the longest of them."""

    rows: list[int]
    """Their numbers in the line."""
    length: int
    num_prefix: int
    mask: Tensor | None
    """True where a place sees another, [1 or rows, 1, length, num_prefix + length]; none: each
    place sees itself and those before it."""


class Line:
    """Rows end to end, and all that the model, the attention and the loss need to know of them."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        """Lay `rows`, at least one, in the order given."""
        lengths = np.array([row.length for row in rows])
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        self.rows = rows
        self.num_tokens = int(lengths.sum())
        self.device = device
        # A virtual place holds id 0 until its learnt embedding is put there.
        ids = [np.concatenate((np.zeros(row.num_virtual), row.input_ids)) for row in rows]
        self.ids_T = self._tensor(np.concatenate(ids))
        self.positions_T = self._tensor(np.concatenate([row.positions for row in rows], axis=-1))
        self.virtual_places = self._tensor(
            np.concatenate(
                [np.arange(s, s + row.num_virtual) for s, row in zip(starts, rows, strict=True)]
            )
        )
        self.segments = _segments(rows, lengths)
        """The slots' parts of the line."""
        self._label(rows, starts)
        self.buckets = _bucket(rows, lengths, device)
        self._gather(lengths, starts)

    def pads_by_slot(self) -> dict[int, int]:
        """How much padding attention worked on for each slot; nothing else works on any."""
        found = {segment.slot: 0 for segment in self.segments}
        for bucket in self.buckets:
            for number in bucket.rows:
                row = self.rows[number]
                found[row.slot] += bucket.length - row.length
        return found

    def _tensor(self, values: npt.NDArray[np.generic]) -> Tensor:
        return torch.as_tensor(values.astype(np.int64), device=self.device)

    def _label(self, rows: Sequence[Row], starts: npt.NDArray[np.int64]) -> None:
        """Find the places whose next token carries a label."""
        places, targets = [], []
        for start, row in zip(starts, rows, strict=True):
            labels = np.asarray(row.labels, dtype=np.int64)
            carrying = np.flatnonzero(labels[1:] != IGNORED_LABEL)
            places.append(start + row.num_virtual + carrying)
            targets.append(labels[1:][carrying])
        self.labelled_places = self._tensor(np.concatenate(places))
        """Places whose hidden state predicts a labelled token, [labels]."""
        self.targets = self._tensor(np.concatenate(targets))
        """The labelled tokens, [labels]."""
        counts = np.array([len(own) for own in places])
        self.labelled_segments = _segments(rows, counts)
        """The slots' parts of the labelled places."""
        self.num_labels = {s.slot: s.stop - s.start for s in self.labelled_segments}
        """Slot -> labelled places of its rows."""

    def _gather(self, lengths: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> None:
        gathered, pads, at = [], [], 0
        back = np.empty(self.num_tokens, dtype=np.int64)
        for bucket in self.buckets:
            for row in bucket.rows:
                columns = np.arange(bucket.length)
                # A pad stands for its own row's last token: what diverges stays in its row.
                gathered.append(starts[row] + np.minimum(columns, lengths[row] - 1))
                pads.append(columns >= lengths[row])
                back[starts[row] : starts[row] + lengths[row]] = at + columns[: lengths[row]]
                at += bucket.length
        self.gather_G = self._tensor(np.concatenate(gathered))
        """Place in the line of each gathered token."""
        self.pads = self._tensor(np.flatnonzero(np.concatenate(pads)))
        """Gathered tokens that are padding."""
        self.back_T = self._tensor(back)
        """Gathered token of each place in the line."""
        self.is_gathered = len(self.pads) == 0 and bool(
            (self.gather_G == torch.arange(self.num_tokens, device=self.device)).all()
        )
        """Whether the line is in the buckets' order already."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A slot's part of the line, or of some of its places."""

    slot: int
    start: int
    stop: int
    lengths: tuple[int, ...]
    """Places of each of its rows."""


def _segments(rows: Sequence[Row], lengths: npt.NDArray[np.int64]) -> list[Segment]:
    """Find the slots' parts, where each row has so many places."""
    found: dict[int, list[int]] = {}
    stops = np.cumsum(lengths)
    for number, row in enumerate(rows):
        found.setdefault(row.slot, []).append(number)
    segments = []
    for slot, numbers in found.items():
        if numbers != list(range(numbers[0], numbers[-1] + 1)):
            raise ValueError(f"the rows of a slot must stand together, but those of {slot} do not")
        own = tuple(lengths[numbers].tolist())
        stop = int(stops[numbers[-1]])
        segments.append(Segment(slot=slot, start=stop - sum(own), stop=stop, lengths=own))
    return segments


def _bucket(
    rows: Sequence[Row], lengths: npt.NDArray[np.int64], device: torch.device
) -> list[Bucket]:
    """Group rows of equal prefix and like length; equal lengths stay in the line's order."""
    order = sorted(range(len(rows)), key=lambda number: (rows[number].num_prefix, lengths[number]))
    groups: list[list[int]] = []
    places = 0
    for number in order:
        group = groups[-1] if groups else []
        padded = (len(group) + 1) * lengths[number]
        fits = places + lengths[number] >= (1 - MAX_BUCKET_WASTE) * padded
        if group and rows[group[-1]].num_prefix == rows[number].num_prefix and fits:
            group.append(number)
            places += lengths[number]
        else:
            groups.append([number])
            places = lengths[number]
    return [
        Bucket(
            rows=group,
            length=int(lengths[group].max()),
            num_prefix=rows[group[0]].num_prefix,
            mask=_mask([rows[number] for number in group], int(lengths[group].max()), device),
        )
        for group in groups
    ]


def _mask(rows: Sequence[Row], length: int, device: torch.device) -> Tensor | None:
    num_prefix = rows[0].num_prefix
    if num_prefix == 0 and not any(row.context for row in rows):
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if any(row.context for row in rows):
        columns = torch.arange(length, device=device)
        context = torch.tensor([row.context for row in rows], device=device)
        seen = seen | (columns < context[:, None])[:, None, None]
    return torch.nn.functional.pad(seen, (num_prefix, 0), value=True)
