"""Next-token loss that never holds more logits than it needs. Read next: `modeling`.

Shape suffixes: B batch, T tokens, H hidden, K labelled rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raytune_glm.models.family import IGNORED_LABEL

MAX_CHUNK_LOGITS = 2**26
"""Most fp32 logits that exist at a time: 256 MiB, about 1000 rows of ChatGLM's 65024."""


def labelled_loss(
    hidden_BTH: Tensor,
    labels_BT: Tensor,
    output_layer: nn.Module,
    *,
    num_items_in_batch: Tensor | int | None = None,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> Tensor:
    """Mean cross entropy of the next token, in fp32, over the rows that carry a label.

    Logits are computed for those rows only, and where they are many, in chunks whose logits are
    dropped and computed again in the backward pass.

    Args:
        hidden_BTH: Normed last hidden states.
        labels_BT: Ids, not shifted; `IGNORED_LABEL` where no loss is taken.
        output_layer: Maps hidden states to logits.
        num_items_in_batch: Divisor instead of the number of labelled rows.
        max_chunk_logits: Most logits to hold at a time.

    Returns:
        A scalar. 0 where no row carries a label.
    """
    targets_BT = labels_BT[:, 1:].to(hidden_BTH.device)
    labelled_BT = targets_BT != IGNORED_LABEL
    rows_KH = hidden_BTH[:, :-1][labelled_BT]
    targets_K = targets_BT[labelled_BT]
    vocab_size = int(output_layer.out_features)  # type: ignore[arg-type]
    rows_per_chunk = max(1, max_chunk_logits // vocab_size)

    def chunk_loss(rows: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output_layer(rows).float(), targets, reduction="sum")

    if len(rows_KH) <= rows_per_chunk:
        # An empty batch still goes through the layer: under ZeRO-3 every rank must take part.
        total = chunk_loss(rows_KH, targets_K)
    else:
        parts = [
            checkpoint(chunk_loss, rows, targets, use_reentrant=False)
            for rows, targets in zip(
                torch.split(rows_KH, rows_per_chunk),
                torch.split(targets_K, rows_per_chunk),
                strict=True,
            )
        ]
        total = torch.stack(parts).sum()
    if num_items_in_batch is None:
        num_items_in_batch = max(1, len(targets_K))
    elif isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch
