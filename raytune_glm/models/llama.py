"""LLaMA: the layouts of `LlamaForCausalLM`, with the tokenizer's chat template or Alpaca's.

Module names and sizes follow transformers' `models/llama/modeling_llama.py`; LoRA on q and v is
what Alpaca-LoRA trains. Read next: `text_family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raytune_glm.models.decoder import LAYERS_PATH, decoder_shape
from raytune_glm.models.family import ModelShape, size_in
from raytune_glm.models.llama_original import OriginalLlama, original_llama
from raytune_glm.models.text_family import TextFamily

_DEFAULT_MAX_LENGTH = 2048
"""`max_position_embeddings` where config.json has none, as in transformers' `LlamaConfig`."""


class Llama(TextFamily):
    """LLaMA 1 to 3 and every checkpoint with `model_type: llama`.

    Args:
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    name = "llama"
    layers_path = LAYERS_PATH
    attention_modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    mlp_modules = ("gate_proj", "up_proj", "down_proj")
    default_lora_modules = ("q_proj", "v_proj")
    joining_model_types = ("llama",)
    tokenizer_files = ("tokenizer.json", "tokenizer.model")
    # Table 2 of the LLaMA paper (arXiv 2302.13971); widths of the feed-forward part from the
    # checkpoints in transformers' format.
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            name: {
                "model_type": "llama",
                "hidden_size": hidden,
                "intermediate_size": ffn,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "vocab_size": 32000,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-6,
                "bos_token_id": 1,
                "eos_token_id": 2,
            }
            for name, hidden, ffn, layers, heads in (
                ("llama-7b", 4096, 11008, 32, 32),
                ("llama-13b", 5120, 13824, 40, 40),
                ("llama-30b", 6656, 17920, 60, 52),
                ("llama-65b", 8192, 22016, 80, 64),
            )
        }
    )

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return config.get("model_type") == "llama"

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        hidden, ffn = size_in(config, "hidden_size"), size_in(config, "intermediate_size")
        heads = size_in(config, "num_attention_heads")
        return decoder_shape(
            config,
            num_key_value_heads=size_in(config, "num_key_value_heads", heads),
            head_dim=size_in(config, "head_dim", hidden // heads),
            max_length=size_in(config, "max_position_embeddings", _DEFAULT_MAX_LENGTH),
            mlp={
                "gate_proj": (hidden, ffn),
                "up_proj": (hidden, ffn),
                "down_proj": (ffn, hidden),
            },
            biased=(
                *(self.attention_modules if config.get("attention_bias", False) else ()),
                *(self.mlp_modules if config.get("mlp_bias", False) else ()),
            ),
            norms=("input_layernorm", "post_attention_layernorm"),
        )

    def original_layout(self, config: Mapping[str, Any]) -> OriginalLlama:
        """See `Family.original_layout`."""
        return original_llama(config)
