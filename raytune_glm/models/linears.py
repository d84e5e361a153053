"""Linears that use all of a CPU's vector width, where PyTorch's own do not.

PyTorch multiplies fp32 matrices on x86 by MKL, which keeps to 256-bit instructions on processors
that are not Intel's; oneDNN, which PyTorch brings too, does not. On Intel's, where both use 512
bits, MKL is the faster one, by a tenth on an Ice Lake Xeon. `benchmarks/linears.py` compares them
on the machine that it runs on.

Shape suffixes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MIN_MULTIPLICATIONS = 2**24
"""Below this, a tenth of a millisecond, setting a product up and the two calls of Python that
autograd makes for a function of ours take what oneDNN gains."""


def speed_up_linears(model: nn.Module) -> None:
    """Have a model's fp32 linears on the CPU compute by oneDNN, where that is the faster way.

    Values differ by rounding alone. Parameters, their names and `isinstance(..., nn.Linear)` stay
    as they are; linears of other types, and weights that DeepSpeed holds in parts, compute as ever.

    Args:
        model: The model; its linears are replaced.
    """
    if not _has_wider_vectors():
        return
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.device.type == "cpu":
            model.set_submodule(name, FullWidthLinear(module))


class FullWidthLinear(nn.Linear):
    """A linear that computes by `product`."""

    def __init__(self, plain: nn.Linear) -> None:
        """Take over the parameters of `plain`."""
        has_bias = plain.bias is not None
        super().__init__(plain.in_features, plain.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.train(plain.training)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the weights, and the bias where there is one."""
        if not _pays(input, self.weight):
            return super().forward(input)
        outputs: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return outputs


def product(inputs: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as `torch.nn.functional.linear`, by oneDNN where that pays; autograd sees nothing.

    Args:
        inputs: [..., I].
        weight_OI: The weights; a transposed view is as good.
        bias: [O], or none.

    Returns:
        [..., O].
    """
    flat_TI = inputs.reshape(-1, inputs.shape[-1])
    if _pays(inputs, weight_OI):
        outputs_TO = torch.ops.mkldnn._linear_pointwise(flat_TI, weight_OI, bias, "none", [], "")
    else:
        outputs_TO = nn.functional.linear(flat_TI, weight_OI, bias)
    # What is marked as a view and comes from a function of ours, autograd lets no model write to.
    outputs: Tensor = torch.ops.aten._unsafe_view(outputs_TO, [*inputs.shape[:-1], len(weight_OI)])
    return outputs


@functools.cache
def _has_wider_vectors() -> bool:
    """Whether oneDNN is there, and the CPU's vectors are 512 bits, of which MKL uses 256.

    By what the processor has and not by a measurement: the same run must round in the same way.
    """
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not _is_intels()
    )


def _is_intels() -> bool:
    """Whether the processor is one of those that MKL is written for."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        told = platform.processor()
    return "GenuineIntel" in told


def _pays(inputs: Tensor, weight_OI: Tensor) -> bool:
    return (
        inputs.dtype == weight_OI.dtype == torch.float32
        and inputs.device.type == weight_OI.device.type == "cpu"
        and inputs.numel() * len(weight_OI) >= _MIN_MULTIPLICATIONS
        and _has_wider_vectors()
        and not torch.is_autocast_enabled("cpu")
        and not hasattr(weight_OI, "ds_id")  # ZeRO-3 gathers it for its own `F.linear` alone
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_OI: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs if weight_OI.requires_grad else None, weight_OI)
        return product(inputs, weight_OI, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight_OI = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        gradient_TO = gradient.reshape(-1, gradient.shape[-1])
        weight_grad = None
        if needs_weight:
            inputs_TI = inputs.reshape(-1, inputs.shape[-1])
            weight_grad = product(gradient_TO.T, inputs_TI.T)
        return (
            product(gradient, weight_OI.T) if needs_input else None,
            weight_grad,
            gradient_TO.sum(0) if needs_bias else None,
        )
