"""Sizes of a model in the layout that transformers has for LLaMA, and GLM-4 after it.

`model.embed_tokens`, `model.layers` with `self_attn` and `mlp`, `model.norm`, and `lm_head` where
it is not tied. Read next: `llama`, `glm`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raytune_glm.models.family import ModelShape, in_layers, linears_in_layers, size_in

LAYERS_PATH = "model.layers"
"""Module path of the list of layers."""


def decoder_shape(
    config: Mapping[str, Any],
    *,
    num_key_value_heads: int,
    head_dim: int,
    max_length: int,
    mlp: Mapping[str, tuple[int, int]],
    biased: Collection[str],
    norms: Collection[str],
) -> ModelShape:
    """Work out the sizes of a decoder without building it.

    Args:
        config: The checkpoint's `config.json`, for the sizes that all of them write alike.
        num_key_value_heads: Heads of keys and values; fewer than those of queries where shared.
        head_dim: Width of a head.
        max_length: Longest sequence in tokens.
        mlp: Linears of the feed-forward part: name -> features in and out.
        biased: Those linears of a layer, by their last names, that have a bias.
        norms: Norms of a layer, each with a weight and no bias.

    Raises:
        ModelError: A size is missing or impossible.
    """
    hidden, layers, heads, vocab = (
        size_in(config, key)
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    )
    queries, keys = heads * head_dim, num_key_value_heads * head_dim
    linears = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        **{f"mlp.{name}": size for name, size in mlp.items()},
    }
    per_layer = {f"{norm}.weight": hidden for norm in norms}
    for name, (width, out) in linears.items():
        per_layer[f"{name}.weight"] = width * out
        if name.rpartition(".")[2] in biased:
            per_layer[f"{name}.bias"] = out
    tied = config.get("tie_word_embeddings", False)
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        max_length=max_length,
        linears=linears_in_layers(LAYERS_PATH, layers, linears),
        parameters={
            "model.embed_tokens.weight": vocab * hidden,
            **in_layers(LAYERS_PATH, layers, per_layer),
            "model.norm.weight": hidden,
            **({} if tied else {"lm_head.weight": vocab * hidden}),
        },
    )
