"""NEFTune (Jain et al. 2023, arXiv 2310.05914): noise on the embeddings of training rows.

A row of L tokens with embeddings of size d gets noise drawn uniformly from [-1, 1], times
alpha / sqrt(L d) (the paper's Algorithm 1). L counts the row's own tokens: pads get no noise and
do not count, and rows that stand one behind the other in one row count each by itself, so that
batching changes nothing but the draw.

Shape suffixes: B rows of the batch, T tokens, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def add_noise(model: nn.Module, alpha: float) -> None:
    """Have a model's input embeddings noisy in training; in evaluation they are as they were.

    Noise comes from torch's current random state.

    Args:
        model: The model, with its method on it; it is changed.
        alpha: Scale of the noise; the paper tries 5, 10 and 15.
    """
    lengths: list[Tensor] = []

    def begin(begun: nn.Module, _: Any, arguments: dict[str, Any]) -> None:
        if begun.training:
            lengths[:] = [_row_lengths(arguments)]

    def noisy(embedding: nn.Module, _: Any, embedded_BTH: Tensor) -> Tensor:
        if not embedding.training:
            return embedded_BTH
        [lengths_BT] = lengths
        scale_BT = alpha / (lengths_BT.clamp(min=1) * embedded_BTH.shape[-1]).sqrt()
        scale_BT = scale_BT.where(lengths_BT > 0, 0.0).to(embedded_BTH.dtype)
        noise_BTH = torch.empty_like(embedded_BTH).uniform_(-1.0, 1.0)
        return embedded_BTH + noise_BTH * scale_BT[..., None]

    model.register_forward_pre_hook(begin, with_kwargs=True)
    words: Any = model.get_input_embeddings()  # type: ignore[operator]  # transformers' own
    words.register_forward_hook(noisy)


def _row_lengths(arguments: dict[str, Any]) -> Tensor:
    """The tokens of each token's own row, 0 for a pad, [B, T] or [B, 1]."""
    mask_BT, positions_BT = arguments.get("attention_mask"), arguments.get("position_ids")
    if mask_BT is not None:
        lengths_BT: Tensor = mask_BT * mask_BT.sum(dim=1, keepdim=True)
        return lengths_BT
    if positions_BT is None:
        ids_BT: Tensor = arguments["input_ids"]
        return torch.full_like(ids_BT, ids_BT.shape[1])
    starts_BT = positions_BT == 0
    row_BT = starts_BT.long().cumsum(dim=1) - 1
    counts_BT = torch.zeros_like(row_BT).scatter_add_(1, row_BT, torch.ones_like(row_BT))
    return counts_BT.gather(1, row_BT)
