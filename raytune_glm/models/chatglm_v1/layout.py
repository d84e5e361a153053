"""What ChatGLM-6B's `config.json` says, told without torch.

Names and sizes follow `modeling_chatglm.py` of THUDM/chatglm-6b. Read next: `configuration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytune_glm.models.chatglm.layout import MODEL_TYPE
from raytune_glm.models.family import ModelShape, in_layers, linears_in_layers, size_in

LAYERS_PATH = "transformer.layers"


def has_layout(config: Mapping[str, Any]) -> bool:
    """Say whether a `config.json` describes ChatGLM-6B's architecture."""
    return config.get("model_type") == MODEL_TYPE and "inner_hidden_size" in config


def shape(config: Mapping[str, Any]) -> ModelShape:
    """Work out the sizes of a ChatGLM-6B model from its `config.json`.

    Raises:
        ModelError: A size is missing or not a positive integer.
    """
    hidden, inner, layers, heads, vocab, max_length = (
        size_in(config, key)
        for key in (
            "hidden_size",
            "inner_hidden_size",
            "num_layers",
            "num_attention_heads",
            "vocab_size",
            "max_sequence_length",
        )
    )
    sizes = {
        "attention.query_key_value": (hidden, 3 * hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (hidden, inner),
        "mlp.dense_4h_to_h": (inner, hidden),
    }
    norms = ("input_layernorm", "post_attention_layernorm")
    per_layer = {f"{norm}.{kind}": hidden for norm in norms for kind in ("weight", "bias")}
    for name, (width, out) in sizes.items():
        per_layer |= {f"{name}.weight": width * out, f"{name}.bias": out}
    outputs = {} if config.get("tie_word_embeddings", True) else {"lm_head.weight": vocab * hidden}
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_length=max_length,
        linears=linears_in_layers(LAYERS_PATH, layers, sizes),
        parameters={
            "transformer.word_embeddings.weight": vocab * hidden,
            **in_layers(LAYERS_PATH, layers, per_layer),
            "transformer.final_layernorm.weight": hidden,
            "transformer.final_layernorm.bias": hidden,
            **outputs,
        },
    )
