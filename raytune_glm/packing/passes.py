"""What acts on the rows of a pass: which slot's updates, copies, prefixes and prompts, and where.

Read next: `line`, which lays the rows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raytune_glm.packing.copies import Part, joined
from raytune_glm.packing.line import Line, Segment
from raytune_glm.packing.linear import Term
from raytune_glm.packing.slot import Slot

if TYPE_CHECKING:
    from raytune_glm.models.chatglm.prefix import Prefix


class SlotPass:
    """What the slots' rows need while one line is on its way."""

    def __init__(
        self, slots: Mapping[int, Slot], line: Line, dtype: torch.dtype, *, is_training: bool
    ) -> None:
        self._slots = slots
        self.line = line
        self._dtype = dtype
        self._is_training = is_training
        self._drawn: dict[tuple[str, int], Tensor] = {}

    def embed(self, words: nn.Module) -> Tensor:
        """The embedding of every place, learnt ones where they belong."""
        embedded_TH: Tensor = words(self.line.ids_T)
        learnt = []
        for segment in self.line.segments:
            prompt = self._slots[segment.slot].prompt
            if prompt is not None:
                learnt.append(prompt.weight.repeat(len(segment.lengths), 1))
        if not learnt:
            return embedded_TH
        values = torch.cat(learnt).to(embedded_TH.dtype)
        return embedded_TH.index_copy(0, self.line.virtual_places, values)

    def prefixes(self) -> list[Prefix | None]:
        """Each bucket's prefix: those of its rows, from whichever slots they are."""
        of_slot: dict[int, Prefix] = {}
        first_row: dict[int, int] = {}
        number = 0
        for segment in self.line.segments:
            slot = self._slots[segment.slot]
            first_row[segment.slot] = number
            number += len(segment.lengths)
            if slot.prefix_encoder is not None:
                slot.prefix_encoder.train(self._is_training)
                with slot.stream():
                    of_slot[segment.slot] = slot.prefix_encoder(len(segment.lengths), self._dtype)
        return [
            self._bucket_prefix(bucket.rows, of_slot, first_row) if bucket.num_prefix else None
            for bucket in self.line.buckets
        ]

    def _bucket_prefix(
        self, rows: Sequence[int], of_slot: Mapping[int, Prefix], first_row: Mapping[int, int]
    ) -> Prefix:
        by_slot: dict[int, list[int]] = {}
        for row in rows:
            slot = self.line.rows[row].slot
            by_slot.setdefault(slot, []).append(row - first_row[slot])
        parts = [
            [
                tuple(half[torch.tensor(chosen, device=half.device)] for half in layer)
                for layer in of_slot[slot]
            ]
            for slot, chosen in by_slot.items()
        ]
        # Rows of a slot stand together in a bucket's list only where lengths say so: put them back.
        order = [row for slot in by_slot for row in rows if self.line.rows[row].slot == slot]
        back = torch.tensor([order.index(row) for row in rows], device=self.line.device)
        return [
            (torch.cat([k for k, _ in layer])[back], torch.cat([v for _, v in layer])[back])
            for layer in zip(*parts, strict=True)
        ]

    def parts(self, name: str, inputs: Tensor) -> list[Part]:
        """The places that came, by the module that each goes through."""
        return joined(
            [
                Part(
                    length=segment.stop - segment.start,
                    copy=self._slots[segment.slot].copies.get(name),
                )
                for segment in self._segments(inputs)
            ]
        )

    def terms(self, name: str, inputs: Tensor) -> list[Term]:
        """The updates of a linear, with the places that came that each acts on."""
        terms = []
        segments = zip(self.line.segments, self._segments(inputs), strict=True)
        for whole, segment in segments:
            update = self._slots[segment.slot].updates.get(name)
            if update is None:
                continue
            kept = None
            if self._is_training and update.dropout > 0:
                kept = self._kept(name, whole, inputs, update.dropout)
                if segment is not whole:
                    own = self.line.labelled_places[segment.start : segment.stop]
                    kept = kept[own - whole.start]
            terms.append(Term(update=update, start=segment.start, stop=segment.stop, kept_TI=kept))
        return terms

    def _segments(self, inputs: Tensor) -> list[Segment]:
        """The slots' parts of what comes to a module: the line, or its labelled places alone."""
        num_places = inputs.shape[-2]
        if num_places == self.line.num_tokens:
            return self.line.segments
        assert num_places == len(self.line.labelled_places), "a module sees whole lines, or labels"
        return self.line.labelled_segments

    def _kept(self, name: str, segment: Segment, inputs: Tensor, dropout: float) -> Tensor:
        """Draw what dropout keeps, as a solo trial draws it for its padded batch.

        A layer that is run again in the backward pass draws the same again.
        """
        slot = self._slots[segment.slot]
        longest = max(segment.lengths)
        ones = inputs.new_ones(len(segment.lengths), longest, inputs.shape[-1])
        again = self._drawn.get((name, segment.slot))
        if again is None:
            self._drawn[name, segment.slot] = slot.random_state.clone()
            with slot.stream():
                kept = nn.functional.dropout(ones, dropout)
        else:
            with slot.stream_at(again):
                kept = nn.functional.dropout(ones, dropout)
        return torch.cat([row[:n] for row, n in zip(kept, segment.lengths, strict=True)])


class RowsPass:
    """Which rows of a padded batch are whose."""

    def __init__(self, slots: Mapping[int, Slot], owners: Sequence[int]) -> None:
        self._slots = slots
        self._spans: dict[int, tuple[int, int]] = {}
        for row, owner in enumerate(owners):
            self._spans[owner] = (self._spans.get(owner, (row, row))[0], row + 1)

    def parts(self, name: str, inputs: Tensor) -> list[Part]:
        """The tokens of the batch, by the module that each goes through."""
        width = inputs.shape[1]
        return joined(
            [
                Part(length=(last - first) * width, copy=self._slots[number].copies.get(name))
                for number, (first, last) in self._spans.items()
            ]
        )

    def terms(self, name: str, inputs: Tensor) -> list[Term]:
        """The updates of a linear, with the tokens of the batch that each acts on."""
        width = inputs.shape[1]
        found = []
        for number, (first, last) in self._spans.items():
            update = self._slots[number].updates.get(name)
            if update is not None:
                start, stop = first * width, last * width
                found.append(Term(update=update, start=start, stop=stop, kept_TI=None))
        return found
