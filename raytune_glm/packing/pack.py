"""A pack: slots on one frozen base, and the passes that train and evaluate them together.

A pass takes a micro-batch of every slot that has one. When a slot has had all micro-batches of its
step it steps alone: its clipping, its learning rate, its AdamW. Read next: `passes`, `trial`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raytune_glm.data.collation import collate
from raytune_glm.models.family import IGNORED_LABEL
from raytune_glm.models.loss import has_plain_logits, token_losses
from raytune_glm.packing.attention import LINE_ATTENTION, Keep, LinePass, passing
from raytune_glm.packing.copies import Part, SharedCopies
from raytune_glm.packing.line import Line, Row
from raytune_glm.packing.linear import SharedLinear, Term
from raytune_glm.packing.passes import RowsPass, SlotPass
from raytune_glm.packing.slot import Slot, twin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from raytune_glm.config import RunConfig
    from raytune_glm.models.family import Family

TOKENS_A_PASS = 8192
"""Tokens, all slots together, in a forward pass that nothing is kept of for a backward one."""

DataRow = Mapping[str, Any]
"""An encoded row: `input_ids` and `labels`, and the counts `num_labels` and `length`."""


class Pack:
    """The base, loaded once, and the slots on it."""

    def __init__(self, base: PreTrainedModel, family: Family) -> None:
        """Freeze `base` and take it as what all slots share."""
        base.requires_grad_(requires_grad=False)
        self.base = base
        self.family = family
        self.device = next(base.parameters()).device
        self.slots: dict[int, Slot] = {}
        self.shared: Any = twin(base)
        """The base with every slot's updates on it; which of them act, a pass says."""
        self.shared.set_attn_implementation(LINE_ATTENTION)
        backbone: Any = self.shared.base_model
        backbone.checks_length = False  # a line is longer than any of its rows
        self.shared.train()
        self._linears: set[str] = set()
        self._copied: set[str] = set()
        self._pass: SlotPass | RowsPass | None = None
        # Architectures that scale or cap their logits are asked for them themselves.
        self._has_plain_logits = has_plain_logits(base)
        # Ours leave out of the last layer what no loss is taken of.
        self._keeps_places = "places_to_keep" in inspect.signature(backbone.forward).parameters

    def add(self, number: int, run: RunConfig) -> Slot:
        """Give a trial a slot; the others do not notice."""
        assert number not in self.slots, f"slot {number} is taken"
        slot = Slot(self.base, run, self.family)
        self.slots[number] = slot
        for name in slot.updates:
            self._share_linear(name)
        for name in slot.copies:
            self._share_copies(name)
        return slot

    def remove(self, number: int) -> None:
        """Free a slot, if it is taken."""
        self.slots.pop(number, None)

    def _share_linear(self, name: str) -> None:
        if name not in self._linears:
            self._linears.add(name)
            base = self.shared.get_submodule(name)
            shared = SharedLinear(base, lambda inputs: self._terms(name, inputs))
            self.shared.set_submodule(name, shared)

    def _share_copies(self, name: str) -> None:
        if name not in self._copied:
            self._copied.add(name)
            base = self.shared.get_submodule(name)
            # Inside a shared linear, whose terms count the tokens of all slots.
            inner = base.base if isinstance(base, SharedLinear) else base
            copies = SharedCopies(inner, lambda inputs: self._parts(name, inputs))
            if isinstance(base, SharedLinear):
                base.base = copies
            else:
                self.shared.set_submodule(name, copies)

    def _parts(self, name: str, inputs: Tensor) -> Sequence[Part]:
        return [] if self._pass is None else self._pass.parts(name, inputs)

    def _terms(self, name: str, inputs: Tensor) -> Sequence[Term]:
        return [] if self._pass is None else self._pass.terms(name, inputs)

    def train_pass(
        self, batches: Mapping[int, Sequence[DataRow]], *, loss_weights: Mapping[int, float]
    ) -> dict[int, float]:
        """Add the gradients of a micro-batch of each slot to the slots' own.

        Args:
            batches: Slot -> rows; every slot of them has one or more.
            loss_weights: Slot -> what the sum of its label tokens' losses is multiplied by.

        Returns:
            Each slot's weighted sum of losses.
        """
        losses: dict[int, float] = {}
        for numbers in self._lines(batches):
            together = {number: batches[number] for number in numbers}
            losses |= self._train_line(together, loss_weights)
        for number, rows in batches.items():
            if self.slots[number].is_alone:
                losses[number] = self._train_alone(self.slots[number], rows, loss_weights[number])
        return losses

    def _lines(self, batches: Iterable[int]) -> list[list[int]]:
        """Group slots whose gradients go equally far down: those that train top layers stop there.

        In one line with the others their rows, too, would be kept, and gone back, to the bottom.
        """
        shared = [number for number in batches if not self.slots[number].is_alone]
        whole = [number for number in shared if not self.slots[number].copies]
        tops = [number for number in shared if self.slots[number].copies]
        return [numbers for numbers in (whole, tops) if numbers]

    def _train_alone(self, slot: Slot, rows: Sequence[DataRow], weight: float) -> float:
        batch = collate(rows, pad_token_id=0)
        labels = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
        slot.pads += int((batch["attention_mask"] == 0).sum())
        on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with slot.stream():
            loss = slot.model(**on_device, use_cache=False).loss * (labels * weight)
            loss.backward()
        return float(loss.detach())

    def _train_line(
        self, batches: Mapping[int, Sequence[DataRow]], loss_weights: Mapping[int, float]
    ) -> dict[int, float]:
        line = self._line(batches)
        checkpointed = any(self.slots[n].run.train.gradient_checkpointing for n in batches)
        self._checkpoint_layers(on=checkpointed)
        with self._passing(line, is_training=True) as run:
            losses = self._token_losses(run)
            losses.backward(_weights_of_labels(line, loss_weights, losses))  # type: ignore[no-untyped-call]
        for number, pads in line.pads_by_slot().items():
            self.slots[number].pads += pads
        return _sum_by_slot(losses.detach(), line, loss_weights)

    @torch.inference_mode()
    def loss_sums(self, batches: Mapping[int, Sequence[DataRow]]) -> dict[int, float]:
        """Sum of the label tokens' losses of each slot's rows, nothing dropped out."""
        line = self._line(batches)
        with self.evaluating(), self._passing(line, is_training=False) as run:
            losses = self._token_losses(run)
        return _sum_by_slot(losses, line, dict.fromkeys(batches, 1.0))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have nothing dropped out, and nothing computed twice."""
        self._checkpoint_layers(on=False)
        self.shared.eval()
        try:
            yield
        finally:
            self.shared.train()

    @contextmanager
    def rows_of(self, slots: Sequence[int]) -> Iterator[None]:
        """Have a padded batch go through `shared`, with each row's slot's updates on it.

        Args:
            slots: The slot of each row; those of a slot stand together.
        """
        self._pass = RowsPass(self.slots, slots)
        try:
            yield
        finally:
            self._pass = None

    @property
    def _head(self) -> nn.Module:
        head: nn.Module = self.shared.get_output_embeddings()
        return head

    def _checkpoint_layers(self, *, on: bool) -> None:
        if on and not self.shared.is_activation_checkpointing:
            self.shared.activation_checkpointing_enable({"use_reentrant": False})
        elif not on and self.shared.is_activation_checkpointing:
            self.shared.activation_checkpointing_disable()

    @property
    def reads_contexts_whole(self) -> bool:
        """Whether every token of a row sees all of the row's context, as in ChatGLM-6B."""
        return hasattr(self.base, "row_places")

    def places(self, number: int, input_ids: Sequence[int]) -> tuple[NDArray[np.int64], int]:
        """Work out the positions of a slot's row, and how many of its tokens are context.

        Args:
            number: The slot.
            input_ids: The row's own ids.

        Returns:
            [virtual tokens + ids], or [2, ids] where the model has two streams of them; and the
            count, 0 where the context is read as all else is.
        """
        if self.reads_contexts_whole:
            base: Any = self.base
            found: tuple[NDArray[np.int64], int] = base.row_places(input_ids)
            return found
        slot = self.slots[number]
        first = 0 if self.family.has_own_prefix else slot.num_prefix
        return np.arange(first, first + slot.num_virtual + len(input_ids)), 0

    def _line(self, batches: Mapping[int, Sequence[DataRow]]) -> Line:
        rows = [
            self._row(number, row["input_ids"], row["labels"])
            for number, batch in batches.items()
            for row in batch
        ]
        return Line(rows, self.device)

    def _row(self, number: int, input_ids: Sequence[int], labels: Sequence[int]) -> Row:
        slot = self.slots[number]
        positions, context = self.places(number, input_ids)
        return Row(
            slot=number,
            input_ids=input_ids,
            labels=labels,
            num_virtual=slot.num_virtual,
            num_prefix=slot.num_prefix,
            positions=positions,
            context=context,
        )

    @contextmanager
    def _passing(
        self, line: Line, *, is_training: bool, keep: Keep | None = None
    ) -> Iterator[SlotPass]:
        run = SlotPass(self.slots, line, self.base.dtype, is_training=is_training)
        self._pass = run
        try:
            with passing(LinePass(line, run.prefixes(), keep=keep)):
                yield run
        finally:
            self._pass = None

    def read(self, prompts: Sequence[tuple[int, Sequence[int]]], keep: Keep) -> Tensor:
        """Pass prompts, and choose the token that follows each, in a block of `evaluating`.

        Args:
            prompts: The slot and the ids of each; those of a slot stand together.
            keep: Told each layer's keys and values of the prompts, learnt tokens included, laid
                end to end.

        Returns:
            The likeliest ids, [prompts].
        """
        rows = [self._row(n, ids, [*([IGNORED_LABEL] * len(ids)), 0]) for n, ids in prompts]
        with self._passing(Line(rows, self.device), is_training=False, keep=keep) as run:
            return self._labelled_logits(run).argmax(-1)

    def _token_losses(self, run: SlotPass) -> Tensor:
        """The cross entropy of every labelled place, [labels]."""
        if self._has_plain_logits:
            return token_losses(self._labelled_states(run), run.line.targets, self._head)
        logits_KV = self._labelled_logits(run)
        return nn.functional.cross_entropy(logits_KV.float(), run.line.targets, reduction="none")

    def _labelled_logits(self, run: SlotPass) -> Tensor:
        """The logits at every labelled place, [labels, V]."""
        if self._has_plain_logits:
            logits_KV: Tensor = self._head(self._labelled_states(run))
            return logits_KV
        outputs = self.shared(**self._inputs(run), logits_to_keep=run.line.labelled_places)
        return outputs.logits[0]  # type: ignore[no-any-return]

    def _labelled_states(self, run: SlotPass) -> Tensor:
        """The last hidden states of every labelled place, [labels, H]."""
        inputs, places = self._inputs(run), run.line.labelled_places
        if self._keeps_places:
            inputs["places_to_keep"] = places
        states_TH: Tensor = self.shared.base_model(**inputs).last_hidden_state[0]
        return states_TH if self._keeps_places else states_TH[places]

    def _inputs(self, run: SlotPass) -> dict[str, Any]:
        embedded_TH = run.embed(self.shared.get_input_embeddings())
        return {
            "inputs_embeds": embedded_TH[None],
            "position_ids": run.line.positions_T[None],
            # Those that make their own mask take one of four dimensions as ready, and pass it on.
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "use_cache": False,
        }


def _weights_of_labels(line: Line, weights: Mapping[int, float], losses: Tensor) -> Tensor:
    """What each label's loss counts, [labels]."""
    counts = [line.num_labels[segment.slot] for segment in line.segments]
    shares = np.repeat([weights[segment.slot] for segment in line.segments], counts)
    return torch.as_tensor(shares, dtype=losses.dtype, device=losses.device)


def _sum_by_slot(losses: Tensor, line: Line, weights: Mapping[int, float]) -> dict[int, float]:
    """Each slot's weighted sum; a slot whose loss is NaN leaves the others' alone."""
    parts = torch.split(losses, [line.num_labels[segment.slot] for segment in line.segments])
    sums = torch.stack([part.sum() for part in parts]).tolist()
    return {
        segment.slot: total * weights[segment.slot]
        for segment, total in zip(line.segments, sums, strict=True)
    }
