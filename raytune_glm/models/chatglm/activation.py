"""SwiGLU of the fused projection of ChatGLM2 and ChatGLM3. Read next: `modeling`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def swiglu(projected: Tensor) -> Tensor:
    """Gate the second half of the last dimension by SiLU of the first, [..., 2F] -> [..., F]."""
    gated: Tensor = _SwiGLU.apply(projected)  # type: ignore[no-untyped-call]
    return gated


class _SwiGLU(torch.autograd.Function):
    """Autograd's own backward pass makes the two halves of the gradient and then joins them."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        gate, value = projected.chunk(2, dim=-1)
        opened = nn.functional.silu(gate)
        ctx.save_for_backward(projected, opened)
        return opened * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        projected, opened = ctx.saved_tensors
        gate, value = projected.chunk(2, dim=-1)
        joined = torch.empty_like(projected)
        gate_grad, value_grad = joined.chunk(2, dim=-1)
        torch.mul(opened, gradient, out=value_grad)
        torch.mul(gradient, value, out=gate_grad)
        torch.ops.aten.silu_backward.grad_input(gate_grad, gate, grad_input=gate_grad)
        return joined
