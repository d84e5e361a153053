"""GLM-4 as transformers has it: the architectures `glm` (GLM-4-9B-hf) and `glm4` (GLM-4-0414).

GLM-4-9B's first release, in ChatGLM's layout, is `chatglm4`. Module names and sizes follow
transformers' `models/glm/modeling_glm.py` and `models/glm4/modeling_glm4.py`. Read next:
`text_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raytune_glm.models.alpaca import known_template
from raytune_glm.models.family import (
    Encoded,
    Family,
    LinearShape,
    Message,
    ModelShape,
    in_layers,
    size_in,
)
from raytune_glm.models.text_rows import TextRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NORMS = {
    "glm": ("input_layernorm", "post_attention_layernorm"),
    "glm4": (
        "input_layernorm",
        "post_self_attn_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
    ),
}
"""Norms of a layer; an architecture that is no key here is another family's."""

_CONFIG_9B: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "pad_token_id": 151329,
    }
)
_CONFIG_9B_0414 = {
    **_CONFIG_9B,
    "model_type": "glm4",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
_CONFIG_32B_0414 = {
    **_CONFIG_9B_0414,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "num_hidden_layers": 61,
    "num_attention_heads": 48,
    "attention_bias": False,
}


class Glm(Family):
    """GLM-4-9B in transformers' own format, GLM-4-0414 and GLM-Z1-0414.

    Args:
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    name = "glm"
    layers_path = "model.layers"
    attention_modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    mlp_modules = ("gate_up_proj", "down_proj")
    default_lora_modules = attention_modules
    joining_model_types = tuple(_NORMS)
    tokenizer_files = ("tokenizer.json",)
    # `config.json` of THUDM/glm-4-9b-chat-hf; those of GLM-4-0414 as tuned copies carry them on.
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "glm-4-9b-chat-hf": {
                **_CONFIG_9B,
                "model_type": "glm",
                "max_position_embeddings": 131072,
                "rms_norm_eps": 1.5625e-07,
            },
            "glm-4-9b-0414": _CONFIG_9B_0414,
            "glm-z1-9b-0414": _CONFIG_9B_0414,
            "glm-4-32b-0414": _CONFIG_32B_0414,
            "glm-z1-32b-0414": _CONFIG_32B_0414,
        }
    )

    def __init__(self, *, template: str | None = None) -> None:
        self.template = template

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return config.get("model_type") in _NORMS

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        hidden, ffn, layers, heads, vocab, max_length = (
            size_in(config, key)
            for key in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "vocab_size",
                "max_position_embeddings",
            )
        )
        kv_heads, head_dim = size_in(config, "num_key_value_heads"), size_in(config, "head_dim")
        sizes = {
            "self_attn.q_proj": (hidden, heads * head_dim),
            "self_attn.k_proj": (hidden, kv_heads * head_dim),
            "self_attn.v_proj": (hidden, kv_heads * head_dim),
            "self_attn.o_proj": (heads * head_dim, hidden),
            "mlp.gate_up_proj": (hidden, 2 * ffn),
            "mlp.down_proj": (ffn, hidden),
        }
        biased = sizes.keys() & {f"self_attn.{part}_proj" for part in "qkv"}
        per_layer = {f"{norm}.weight": hidden for norm in _NORMS[config["model_type"]]}
        for name, (width, out) in sizes.items():
            per_layer[f"{name}.weight"] = width * out
            if name in biased and config.get("attention_bias", True):
                per_layer[f"{name}.bias"] = out
        tied = config.get("tie_word_embeddings", False)
        return ModelShape(
            num_layers=layers,
            hidden_size=hidden,
            vocab_size=vocab,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_length=max_length,
            linears=tuple(
                LinearShape(
                    name=f"{self.layers_path}.{layer}.{name}", in_features=width, out_features=out
                )
                for layer in range(layers)
                for name, (width, out) in sizes.items()
            ),
            parameters={
                "model.embed_tokens.weight": vocab * hidden,
                **in_layers(self.layers_path, layers, per_layer),
                "model.norm.weight": hidden,
                **({} if tied else {"lm_head.weight": vocab * hidden}),
            },
        )

    def with_template(self, name: str) -> Family:
        """See `Family.with_template`."""
        return Glm(template=known_template(name))

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """See `Family.encode`."""
        return TextRows(tokenizer, self.template).encode_row(
            messages, max_length=max_length, max_source_length=max_source_length
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """See `Family.encode_prompt`."""
        rows = TextRows(tokenizer, self.template)
        return rows.encode_prompt(messages, max_source_length=max_source_length)

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return TextRows(tokenizer, self.template).stop_token_ids()
