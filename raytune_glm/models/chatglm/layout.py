"""What the published ChatGLM2 / ChatGLM3 layout says, told from `config.json` without torch.

ChatGLM2-6B and ChatGLM3-6B share one architecture and one `config.json` up to `_name_or_path`; they
differ in the tokenizer's role tokens and in the chat format. Names and sizes follow
`modeling_chatglm.py` of the THUDM hub repositories (chatglm2-6b, chatglm3-6b). Read next:
`configuration`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from raytune_glm.errors import ModelError
from raytune_glm.models.family import ModelShape, in_layers, linears_in_layers, size_in

MODEL_TYPE = "chatglm"
LAYERS_PATH = "transformer.encoder.layers"
_OUTPUT = "transformer.output_layer.weight"

_LAYOUT_KEYS = ("padded_vocab_size", "multi_query_group_num", "ffn_hidden_size", "kv_channels")


CONFIG_6B: Mapping[str, Any] = MappingProxyType(
    {
        "model_type": MODEL_TYPE,
        "num_layers": 28,
        "padded_vocab_size": 65024,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "kv_channels": 128,
        "num_attention_heads": 32,
        "seq_length": 8192,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
)
"""From `config.json` of THUDM/chatglm3-6b; those of chatglm2-6b and the 32k variants differ in the
position table alone."""


def has_layout(config: Mapping[str, Any]) -> bool:
    """Say whether a `config.json` describes the architecture that ChatGLM2 and ChatGLM3 share."""
    return config.get("model_type") == MODEL_TYPE and all(key in config for key in _LAYOUT_KEYS)


def named_family(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> str | None:
    """Tell ChatGLM2, ChatGLM3 and GLM-4 apart by the names in a checkpoint's two config files.

    Args:
        config: `config.json`; its `family` (which our own `save_pretrained` writes) decides, then
            the last part of `_name_or_path`.
        tokenizer_config: `tokenizer_config.json`, asked in the same way with `name_or_path`.

    Returns:
        `"chatglm2"`, `"chatglm3"`, `"chatglm4"`, or None where nothing tells.
    """
    if tokenizer_config.get("tokenizer_class") == "ChatGLM4Tokenizer":
        return "chatglm4"
    for document, key in ((config, "_name_or_path"), (tokenizer_config, "name_or_path")):
        if document.get("family") in ("chatglm2", "chatglm3", "chatglm4"):
            return str(document["family"])
        last_part = str(document.get(key) or "").rstrip("/").rpartition("/")[2].lower()
        if found := re.search(r"(?:chatglm[-_]?([23])|glm-(4)-9b)(?!\d)", last_part):
            return f"chatglm{found[1] or found[2]}"
    return None


def shape(config: Mapping[str, Any]) -> ModelShape:
    """Work out the sizes of a ChatGLM2 / ChatGLM3 model from its `config.json`.

    Raises:
        ModelError: A size is missing, not a positive integer, or does not fit the others.
    """
    hidden, ffn, layers, heads, head_dim, vocab, max_length = (
        size_in(config, key)
        for key in (
            "hidden_size",
            "ffn_hidden_size",
            "num_layers",
            "num_attention_heads",
            "kv_channels",
            "padded_vocab_size",
            "seq_length",
        )
    )
    groups = (
        size_in(config, "multi_query_group_num") if config.get("multi_query_attention") else heads
    )
    if heads % groups:
        raise ModelError(
            "`num_attention_heads` must be a multiple of `multi_query_group_num`, but got "
            f"num_attention_heads={heads}, multi_query_group_num={groups}: config.json is damaged."
        )
    sizes = {
        "self_attention.query_key_value": (hidden, (heads + 2 * groups) * head_dim),
        "self_attention.dense": (heads * head_dim, hidden),
        "mlp.dense_h_to_4h": (hidden, 2 * ffn),
        "mlp.dense_4h_to_h": (ffn, hidden),
    }
    bias_everywhere = bool(config.get("add_bias_linear", False))
    per_layer = {"input_layernorm.weight": hidden, "post_attention_layernorm.weight": hidden}
    for name, (width, out) in sizes.items():
        per_layer[f"{name}.weight"] = width * out
        if bias_everywhere or (name.endswith("query_key_value") and config.get("add_qkv_bias")):
            per_layer[f"{name}.bias"] = out
    outputs = {} if config.get("tie_word_embeddings", False) else {_OUTPUT: vocab * hidden}
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_key_value_heads=groups,
        head_dim=head_dim,
        max_length=max_length,
        linears=linears_in_layers(LAYERS_PATH, layers, sizes),
        parameters={
            "transformer.embedding.word_embeddings.weight": vocab * hidden,
            **in_layers(LAYERS_PATH, layers, per_layer),
            "transformer.encoder.final_layernorm.weight": hidden,
            **outputs,
        },
    )


def prefix_embedding_size(shape: ModelShape) -> int:
    """Width of the prefix table under its projection: the published code's `kv_size`."""
    return 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
