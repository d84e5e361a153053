"""Linears of the published int8 and int4 ChatGLM checkpoints (`chatglm-6b-int4`, ...).

A row of weights is stored as integers with one fp16 scale; two int4 weights share a byte, the even
column in its high half. Formula and order follow `quantization.py` of THUDM/chatglm-6b-int4 and
chatglm2-6b-int4. Weights are unpacked at each use, so a layer takes the memory of its packed form,
and gradients reach its input but never its weights. Read next: `modeling`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raytune_glm.errors import ModelError

_COLUMNS_PER_BYTE = {8: 1, 4: 2}
"""Widths that published checkpoints have."""


class PackedLinear(nn.Linear):
    """A linear whose weights are stored as int8, or as int4 two by two.

    Args:
        in_features: Size of an input.
        out_features: Size of an output.
        bias: Whether there is a bias.
        num_bits: 8 or 4.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, num_bits: int) -> None:
        super().__init__(in_features, out_features, bias=bias)
        columns = in_features // _COLUMNS_PER_BYTE[num_bits]
        self.num_bits = num_bits
        self.weight = nn.Parameter(
            torch.zeros(out_features, columns, dtype=torch.int8), requires_grad=False
        )
        self.weight_scale = nn.Parameter(
            torch.zeros(out_features, dtype=torch.float16), requires_grad=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Apply the unpacked weights."""
        product: Tensor = _PackedProduct.apply(  # type: ignore[no-untyped-call] # theirs
            input, self.weight, self.weight_scale, self.num_bits
        )
        return product if self.bias is None else product + self.bias

    def unpacked(self) -> Tensor:
        """Give the weights as fp16, [out, in]."""
        return unpack(self.weight, self.weight_scale, num_bits=self.num_bits)


class _PackedProduct(torch.autograd.Function):
    """Matrix product that unpacks in both passes and keeps only the packed weights between them."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: Tensor, scale: Tensor, num_bits: int) -> Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.num_bits = num_bits
        return inputs @ unpack(packed, scale, num_bits=num_bits).to(inputs.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        packed, scale = ctx.saved_tensors
        (gradient,) = gradients
        weights = unpack(packed, scale, num_bits=ctx.num_bits).to(gradient.dtype)
        return gradient @ weights, None, None, None


def unpack(packed: Tensor, scale: Tensor, *, num_bits: int) -> Tensor:
    """Turn packed weights into fp16 numbers.

    Args:
        packed: int8, [out, in] or, for 4 bits, [out, in / 2].
        scale: One number a row, [out].
        num_bits: 8 or 4.

    Returns:
        Integer times scale, fp16, [out, in].
    """
    if num_bits == 4:
        # Shifts of int8 keep the sign, so each half comes out as a number of -8 to 7.
        packed = torch.stack((packed >> 4, (packed << 4) >> 4), dim=-1).flatten(-2)
    return packed.half() * scale.half()[:, None]


def make_linear(
    in_features: int, out_features: int, *, bias: bool, num_bits: int | None
) -> nn.Linear:
    """Make a linear of a transformer layer, packed where the checkpoint is.

    Raises:
        ModelError: No published checkpoint has so many bits.
    """
    if not num_bits:
        return nn.Linear(in_features, out_features, bias=bias)
    if num_bits not in _COLUMNS_PER_BYTE:
        raise ModelError(
            "`quantization_bit` must be 4, 8 or 0, but config.json has "
            f"quantization_bit={num_bits}."
        )
    return PackedLinear(in_features, out_features, bias=bias, num_bits=num_bits)
