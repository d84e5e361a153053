"""GLM-4 as transformers has it: the architectures `glm` (GLM-4-9B-hf) and `glm4` (GLM-4-0414).

GLM-4-9B's first release, in ChatGLM's layout, is `chatglm4`. Module names and sizes follow
transformers' `models/glm/modeling_glm.py` and `models/glm4/modeling_glm4.py`. Read next:
`text_family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raytune_glm.models.decoder import LAYERS_PATH, decoder_shape
from raytune_glm.models.family import ModelShape, size_in
from raytune_glm.models.text_family import TextFamily

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


class Glm(TextFamily):
    """GLM-4-9B in transformers' own format, GLM-4-0414 and GLM-Z1-0414.

    Args:
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    name = "glm"
    layers_path = LAYERS_PATH
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

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return config.get("model_type") in _NORMS

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        hidden, ffn = size_in(config, "hidden_size"), size_in(config, "intermediate_size")
        return decoder_shape(
            config,
            num_key_value_heads=size_in(config, "num_key_value_heads"),
            head_dim=size_in(config, "head_dim"),
            max_length=size_in(config, "max_position_embeddings"),
            mlp={"gate_up_proj": (hidden, 2 * ffn), "down_proj": (ffn, hidden)},
            biased=self.attention_modules[:3] if config.get("attention_bias", True) else (),
            norms=_NORMS[config["model_type"]],
        )
