"""RMSNorm of ChatGLM2 and later. Read next: `modeling`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ChatGLMRMSNorm(nn.Module):
    """RMSNorm whose variance is taken in fp32, whatever the model's precision."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """Normalise the last dimension; the result has the input's precision."""
        normed: Tensor = _RMSNorm.apply(hidden_BTH, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed


class _RMSNorm(torch.autograd.Function):
    """Autograd's own backward pass goes over the tokens twice as often, and keeps them in fp32."""

    @staticmethod
    def forward(ctx: Any, hidden_BTH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        wide_BTH = hidden_BTH.float()
        scale_BT1 = torch.rsqrt(wide_BTH.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(hidden_BTH, scale_BT1, weight_H)
        normed_BTH = (wide_BTH * scale_BT1).to(hidden_BTH.dtype)
        return (weight_H * normed_BTH).to(hidden_BTH.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTH: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_BTH, scale_BT1, weight_H = ctx.saved_tensors
        normed_BTH = hidden_BTH.float() * scale_BT1
        hidden_grad = weight_grad = None
        if ctx.needs_input_grad[1]:
            each_BTH = gradient_BTH * normed_BTH.to(gradient_BTH.dtype)
            weight_grad = each_BTH.flatten(0, -2).sum(0).to(weight_H.dtype)
        if ctx.needs_input_grad[0]:
            scaled_BTH = (gradient_BTH * weight_H).float()
            along_BT1 = torch.linalg.vecdot(scaled_BTH, normed_BTH)[..., None]
            along_BT1 /= hidden_BTH.shape[-1]
            hidden_grad = scaled_BTH.addcmul_(normed_BTH, along_BT1, value=-1).mul_(scale_BT1)
            hidden_grad = hidden_grad.to(hidden_BTH.dtype)
        return hidden_grad, weight_grad, None
