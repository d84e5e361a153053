"""Rotary positions and the eager attention of ChatGLM2 / ChatGLM3. Read next: `modeling`.

Shape suffixes: B batch, T tokens of this call, S tokens with the cached ones, N query heads, G
key-value heads, D head size, R rotated pairs (D/4: half of the head is rotated, two by two).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raytune_glm.models.chatglm.configuration import ChatGLMConfig

_ROTARY_BASE = 10000.0


def rotary_tables(config: ChatGLMConfig, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Work out the cosines and sines of the given positions.

    Frequencies and angles are fp32 in a model of any precision: angles in bf16 fall together above
    position 256, in fp16 above 2048. There is no table and no buffer, hence nothing that `half()`,
    a meta device or ZeRO-3 could spoil.

    Args:
        config: Gives the head size and `rope_ratio`, which stretches the base (32k checkpoints).
        position_ids: [B, T] or [1, T].

    Returns:
        Cosines and sines in fp32, [B or 1, 1, T, R] each.
    """
    rotated = config.kv_channels // 2
    exponents_R = (
        torch.arange(0, rotated, 2, dtype=torch.float32, device=position_ids.device) / rotated
    )
    frequencies_R = 1.0 / ((_ROTARY_BASE * config.rope_ratio) ** exponents_R)
    angles_B1TR = (position_ids.float()[..., None] * frequencies_R)[:, None]
    return angles_B1TR.cos(), angles_B1TR.sin()


def rotate_pairs(heads_BTND: Tensor, turns_BT1R: Tensor, *, num_heads: int) -> Tensor:
    """Rotate neighbouring pairs (2i, 2i+1) of the first half of each head; the rest passes through.

    The rotation is done in the turns' fp32 and rounded once.

    Args:
        heads_BTND: Heads of all kinds, in any precision.
        turns_BT1R: Cosines and sines of `rotary_tables` as complex numbers, [B or 1, T, 1, R].
        num_heads: Leading heads to rotate (queries and keys, not values).

    Returns:
        [B, T, N, D].
    """
    rotated: Tensor = _Rotation.apply(heads_BTND, turns_BT1R, num_heads)  # type: ignore[no-untyped-call]
    return rotated


class _Rotation(torch.autograd.Function):
    """One product of complex numbers each way; written plainly it is eleven operations and more."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, turns: Tensor, num_heads: int) -> Tensor:
        ctx.turns, ctx.num_heads = turns, num_heads
        return _turned(heads, turns, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _turned(gradient, ctx.turns.conj(), ctx.num_heads), None, None


def _turned(heads: Tensor, turns: Tensor, num_heads: int) -> Tensor:
    turned = heads.clone(memory_format=torch.contiguous_format)
    half = turned[..., :num_heads, : heads.shape[-1] // 2]
    pairs = torch.view_as_complex(half.float().reshape(*half.shape[:-1], -1, 2))
    if half.dtype == torch.float32:  # then a view of `turned`
        pairs.mul_(turns)
    else:
        half.copy_(torch.view_as_real(pairs * turns).flatten(-2))
    return turned


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend with plain matrix products, keeping the probabilities.

    Args:
        module: The attention layer; `num_key_value_groups` says how many query heads share a key.
        query: [B, N, T, D].
        key: [B, G, S, D].
        value: [B, G, S, D].
        attention_mask: Added to the scores, [B, 1, T, S].
        scaling: Factor of the scores.
        dropout: Share of probabilities dropped; 0 outside training.
        **_: What other attention functions want.

    Returns:
        Context [B, T, N, D] and probabilities [B, N, T, S].
    """
    repeats = int(module.num_key_value_groups)  # type: ignore[arg-type]
    key_BNSD = key.repeat_interleave(repeats, dim=1)
    value_BNSD = value.repeat_interleave(repeats, dim=1)
    scores_BNTS = query @ key_BNSD.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BNTS = scores_BNTS + attention_mask
    probabilities = nn.functional.softmax(scores_BNTS, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(probabilities, p=dropout, training=dropout > 0)
    return (dropped @ value_BNSD).transpose(1, 2), probabilities


def kept(tokens_BTX: Tensor, places_K: Tensor | None) -> Tensor:
    """The columns that are wanted; all of them where none are named."""
    return tokens_BTX if places_K is None else tokens_BTX.index_select(1, places_K)
