"""LLaMA: the layouts of `LlamaForCausalLM`, with the tokenizer's chat template or Alpaca's.

Module names and sizes follow transformers' `models/llama/modeling_llama.py`; LoRA on q and v is
what Alpaca-LoRA trains. Read next: `text_rows`.
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
from raytune_glm.models.llama_original import OriginalLlama, original_llama
from raytune_glm.models.text_rows import TextRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DEFAULT_MAX_LENGTH = 2048
"""`max_position_embeddings` where config.json has none, as in transformers' `LlamaConfig`."""


class Llama(Family):
    """LLaMA 1 to 3 and every checkpoint with `model_type: llama`.

    Args:
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    name = "llama"
    layers_path = "model.layers"
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

    def __init__(self, *, template: str | None = None) -> None:
        self.template = template

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return config.get("model_type") == "llama"

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        hidden = size_in(config, "hidden_size")
        ffn = size_in(config, "intermediate_size")
        layers = size_in(config, "num_hidden_layers")
        heads = size_in(config, "num_attention_heads")
        vocab = size_in(config, "vocab_size")
        kv_heads = size_in(config, "num_key_value_heads", heads)
        head_dim = size_in(config, "head_dim", hidden // heads)
        attention_bias = bool(config.get("attention_bias", False))
        mlp_bias = bool(config.get("mlp_bias", False))
        sizes = {
            "self_attn.q_proj": (hidden, heads * head_dim, attention_bias),
            "self_attn.k_proj": (hidden, kv_heads * head_dim, attention_bias),
            "self_attn.v_proj": (hidden, kv_heads * head_dim, attention_bias),
            "self_attn.o_proj": (heads * head_dim, hidden, attention_bias),
            "mlp.gate_proj": (hidden, ffn, mlp_bias),
            "mlp.up_proj": (hidden, ffn, mlp_bias),
            "mlp.down_proj": (ffn, hidden, mlp_bias),
        }
        per_layer = {"input_layernorm.weight": hidden, "post_attention_layernorm.weight": hidden}
        for name, (width, out, bias) in sizes.items():
            per_layer[f"{name}.weight"] = width * out
            if bias:
                per_layer[f"{name}.bias"] = out
        tied = config.get("tie_word_embeddings", False)
        return ModelShape(
            num_layers=layers,
            hidden_size=hidden,
            vocab_size=vocab,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_length=size_in(config, "max_position_embeddings", _DEFAULT_MAX_LENGTH),
            linears=tuple(
                LinearShape(
                    name=f"{self.layers_path}.{layer}.{name}", in_features=width, out_features=out
                )
                for layer in range(layers)
                for name, (width, out, _) in sizes.items()
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
        return Llama(template=known_template(name))

    def original_layout(self, config: Mapping[str, Any]) -> OriginalLlama:
        """See `Family.original_layout`."""
        return original_llama(config)

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
