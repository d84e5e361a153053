"""P-Tuning v2: learnt keys and values before the first token of every layer, names as published.

The published code calls the length `pre_seq_len` and the reparametrisation `prefix_projection`
(`PrefixEncoder` in `modeling_chatglm.py` of all three ChatGLM generations). Keys are not rotated,
and positions of the text still start at 0. Read next: `modeling`.

Shape suffixes: L layers, P prefix tokens, B batch, G key-value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

_DROPOUT = 0.1
"""Share of the prefix dropped in training, as in the published `get_prompt`."""

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [B, G, P, D] each."""


class PrefixEncoder(nn.Module):
    """The table of prefix keys and values, directly or through a two-layer network.

    Args:
        length: Number of prefix tokens.
        num_layers: Layers of the model.
        num_heads: Key and value heads of a layer.
        head_dim: Size of a head.
        hidden_size: Width of the projection's hidden layer.
        embedding_size: Width of the table under the projection.
        projection: Whether the table goes through the network.
    """

    def __init__(
        self,
        length: int,
        *,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        hidden_size: int,
        embedding_size: int,
        projection: bool,
    ) -> None:
        super().__init__()
        self.sizes = (2 * num_layers, num_heads, head_dim)
        output_size = 2 * num_layers * num_heads * head_dim
        self.embedding = nn.Embedding(length, embedding_size if projection else output_size)
        self.trans = (
            nn.Sequential(
                nn.Linear(embedding_size, hidden_size),
                nn.Tanh(),
                nn.Linear(hidden_size, output_size),
            )
            if projection
            else None
        )
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, batch_size: int, dtype: torch.dtype) -> Prefix:
        """Give the keys and values for a batch, dropped out row by row in training."""
        tokens_P = torch.arange(self.embedding.num_embeddings, device=self.embedding.weight.device)
        values = self.embedding(tokens_P)
        if self.trans is not None:
            values = self.trans(values)
        values = values.to(dtype).view(len(tokens_P), *self.sizes)
        batch = self.dropout(values[None].expand(batch_size, -1, -1, -1, -1))
        parts = batch.permute(2, 0, 3, 1, 4).unbind(0)
        return list(zip(parts[::2], parts[1::2], strict=True))


def seeded(cache: Cache | None, prefix: Prefix) -> Cache:
    """Put a prefix into a cache, or into a new one where there is none."""
    cache = DynamicCache() if cache is None else cache
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys, values, layer)
    return cache
