"""The low-rank updates of several slots on one frozen linear.

The base sees all slots' tokens as one matrix; each slot's update is then added to its own tokens in
place. The backward pass is written out, so that it keeps the input once for all slots and adds
straight to each slot's gradient. Products have the rank first, [R, T] and not [T, R]: that is four
times as fast on a CPU. Read next: `slot`.

Shape suffixes: T tokens, I inputs, O outputs, R rank, S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raytune_glm.models.linears import FullWidthLinear, product


@dataclass(frozen=True, kw_only=True)
class Update:
    """One slot's update `scale * B @ A` of one linear, with where its gradients go."""

    down_RI: Tensor
    """A, in the model's precision."""
    up_OR: Tensor
    """B."""
    down_grad_RI: Tensor
    """Added to by the backward pass."""
    up_grad_OR: Tensor
    scale: float
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Term:
    """An update, and the tokens that it acts on."""

    update: Update
    start: int
    stop: int
    kept_TI: Tensor | None
    """What dropout multiplies the inputs with: 0 or 1 / (1 - p); none without dropout."""


class SharedLinear(nn.Module):
    """A frozen linear with the updates of whichever slots pass through it."""

    def __init__(self, base: nn.Module, terms: Callable[[Tensor], Sequence[Term]]) -> None:
        """Wrap `base`; `terms` gives what acts on an input of this forward pass."""
        super().__init__()
        self.base = base
        self._terms = terms
        # Has autograd go on below, where neither the input nor the base has a gradient.
        self._anchor = torch.zeros((), requires_grad=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """The base's output with each slot's update on its tokens."""
        terms = self._terms(inputs)
        if not terms:
            return self.base(inputs)  # type: ignore[no-any-return]
        if type(self.base) in (nn.Linear, FullWidthLinear):
            return _UpdatedProduct.apply(  # type: ignore[no-any-return,no-untyped-call]
                self._anchor, inputs, self.base.weight, self.base.bias, terms
            )
        outputs: Tensor = self.base(inputs)
        if outputs._is_view():  # as some quantized linears give, which autograd lets none write to
            outputs = outputs.clone()
        return _AddUpdates.apply(self._anchor, outputs, inputs, terms)  # type: ignore[no-any-return,no-untyped-call]


class _UpdatedProduct(torch.autograd.Function):
    """A frozen linear and the updates, each added straight to the base's product, both ways."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        inputs: Tensor,
        weight_OI: Tensor,
        bias: Tensor | None,
        terms: Sequence[Term],
    ) -> Tensor:
        outputs = product(inputs, weight_OI, bias)
        lowered = _add(terms, inputs, outputs)
        ctx.terms = terms
        ctx.save_for_backward(inputs, weight_OI, *lowered)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, None, None, None]:
        inputs, weight_OI, *lowered = ctx.saved_tensors
        input_grad = product(gradient, weight_OI.T) if ctx.needs_input_grad[1] else None
        _add_gradients(ctx.terms, inputs, gradient, lowered, input_grad)
        return None, input_grad, None, None, None


class _AddUpdates(torch.autograd.Function):
    """The updates alone, on the outputs of a base that has its own product."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, outputs: Tensor, inputs: Tensor, terms: Sequence[Term]
    ) -> Tensor:
        lowered = _add(terms, inputs, outputs)
        ctx.terms = terms
        ctx.save_for_backward(inputs, *lowered)
        ctx.mark_dirty(outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None, None]:
        inputs, *lowered = ctx.saved_tensors
        input_grad = torch.zeros_like(inputs) if ctx.needs_input_grad[2] else None
        _add_gradients(ctx.terms, inputs, gradient, lowered, input_grad)
        return None, gradient, input_grad, None


def _add(terms: Sequence[Term], inputs: Tensor, outputs: Tensor) -> list[Tensor]:
    """Add the updates to `outputs`, in place; give what the way back needs."""
    inner = _add_alike if _are_alike(terms) else _add_each
    return inner(terms, inputs.flatten(0, -2), outputs.view(-1, outputs.shape[-1]))


def _add_gradients(
    terms: Sequence[Term],
    inputs: Tensor,
    gradient: Tensor,
    lowered: Sequence[Tensor],
    input_grad: Tensor | None,
) -> None:
    """Add to the slots' gradients, and to that of the inputs where there is one."""
    inner = _grad_alike if _are_alike(terms) else _grad_each
    grad_TI = None if input_grad is None else input_grad.view(-1, input_grad.shape[-1])
    gradient_TO = gradient.reshape(-1, gradient.shape[-1])
    inner(terms, inputs.flatten(0, -2), gradient_TO, lowered, grad_TI)


def _are_alike(terms: Sequence[Term]) -> bool:
    """Whether all terms are one batched product: equal sizes, side by side, no dropout."""
    first = terms[0]
    size, shape = first.stop - first.start, first.update.down_RI.shape
    return len(terms) > 1 and all(
        term.update.down_RI.shape == shape
        and term.start == first.start + number * size
        and term.stop == term.start + size
        and term.kept_TI is None
        for number, term in enumerate(terms)
    )


def _taken(term: Term, inputs_TI: Tensor) -> Tensor:
    own_TI = inputs_TI[term.start : term.stop]
    return own_TI if term.kept_TI is None else own_TI * term.kept_TI


def _add_each(terms: Sequence[Term], inputs_TI: Tensor, outputs_TO: Tensor) -> list[Tensor]:
    lowered = []
    for term in terms:
        lowered_RT = term.update.down_RI @ _taken(term, inputs_TI).T
        outputs_TO[term.start : term.stop].addmm_(
            lowered_RT.T, term.update.up_OR.T, alpha=term.update.scale
        )
        lowered.append(lowered_RT)
    return lowered


def _grad_each(
    terms: Sequence[Term],
    inputs_TI: Tensor,
    gradient_TO: Tensor,
    lowered: Sequence[Tensor],
    grad_TI: Tensor | None,
) -> None:
    for term, lowered_RT in zip(terms, lowered, strict=True):
        update = term.update
        own_TO = gradient_TO[term.start : term.stop]
        back_RT = (update.up_OR.T.contiguous() @ own_TO.T).mul_(update.scale)
        update.up_grad_OR.T.add_(lowered_RT @ own_TO, alpha=update.scale)
        update.down_grad_RI.add_(back_RT @ _taken(term, inputs_TI))
        if grad_TI is None:
            continue
        own_TI = grad_TI[term.start : term.stop]
        if term.kept_TI is None:
            own_TI.addmm_(back_RT.T, update.down_RI)
        else:
            own_TI.addcmul_(back_RT.T @ update.down_RI, term.kept_TI)


def _stacked(terms: Sequence[Term]) -> tuple[Tensor, Tensor, slice]:
    """A, and B transposed and scaled, of all slots, and the tokens that they act on."""
    down_SRI = torch.stack([term.update.down_RI for term in terms])
    up_SRO = torch.stack([term.update.up_OR.T * term.update.scale for term in terms])
    return down_SRI, up_SRO, slice(terms[0].start, terms[-1].stop)


def _by_slot(tokens_TX: Tensor, num_slots: int) -> Tensor:
    return tokens_TX.view(num_slots, -1, tokens_TX.shape[-1])


def _add_alike(terms: Sequence[Term], inputs_TI: Tensor, outputs_TO: Tensor) -> list[Tensor]:
    down_SRI, up_SRO, tokens = _stacked(terms)
    inputs_STI = _by_slot(inputs_TI[tokens], len(terms))
    outputs_STO = _by_slot(outputs_TO[tokens], len(terms))
    lowered_SRT = torch.bmm(down_SRI, inputs_STI.mT)
    outputs_STO.baddbmm_(lowered_SRT.mT, up_SRO)
    return [lowered_SRT, down_SRI, up_SRO]


def _grad_alike(
    terms: Sequence[Term],
    inputs_TI: Tensor,
    gradient_TO: Tensor,
    lowered: Sequence[Tensor],
    grad_TI: Tensor | None,
) -> None:
    lowered_SRT, down_SRI, up_SRO = lowered
    tokens = slice(terms[0].start, terms[-1].stop)
    inputs_STI = _by_slot(inputs_TI[tokens], len(terms))
    gradient_STO = _by_slot(gradient_TO[tokens], len(terms))
    back_SRT = torch.bmm(up_SRO, gradient_STO.mT)
    up_grads = torch.bmm(lowered_SRT, gradient_STO)
    down_grads = torch.bmm(back_SRT, inputs_STI)
    for term, up_grad_RO, down_grad_RI in zip(terms, up_grads, down_grads, strict=True):
        term.update.up_grad_OR.add_(up_grad_RO.T, alpha=term.update.scale)
        term.update.down_grad_RI.add_(down_grad_RI)
    if grad_TI is not None:
        _by_slot(grad_TI[tokens], len(terms)).baddbmm_(back_SRT.mT, down_SRI)
