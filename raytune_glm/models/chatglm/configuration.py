"""The ChatGLM2 / ChatGLM3 configuration under its published field names. Read next: `modeling`."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from raytune_glm.errors import ModelError
from raytune_glm.models.chatglm.layout import MODEL_TYPE, named_family

_FIXED_SETTINGS = {
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "rmsnorm": True,
    "post_layer_norm": True,
}
"""Switches of the published code that every published checkpoint leaves at this value; the other
value is another architecture, which is refused and not silently computed wrongly."""


class ChatGLMConfig(PreTrainedConfig):
    """Sizes and switches of a ChatGLM2 / ChatGLM3 model; defaults are ChatGLM3-6B's.

    `apply_query_key_layer_scaling`, `attention_softmax_in_fp32` and `bias_dropout_fusion` are read
    and written but change no result. `family` is ours: it says whether the checkpoint is ChatGLM2
    or ChatGLM3, which no published field does.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "vocab_size": "padded_vocab_size",
        "max_position_embeddings": "seq_length",
        "intermediate_size": "ffn_hidden_size",
        "head_dim": "kv_channels",
    }

    num_layers: int = 28
    padded_vocab_size: int = 65024
    hidden_size: int = 4096
    ffn_hidden_size: int = 13696
    kv_channels: int = 128
    num_attention_heads: int = 32
    seq_length: int = 8192
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    layernorm_epsilon: float = 1e-5
    rmsnorm: bool = True
    apply_residual_connection_post_layernorm: bool = False
    post_layer_norm: bool = True
    add_bias_linear: bool = False
    add_qkv_bias: bool = True
    bias_dropout_fusion: bool = True
    multi_query_attention: bool = True
    multi_query_group_num: int = 2
    apply_query_key_layer_scaling: bool = True
    attention_softmax_in_fp32: bool = True
    fp32_residual_connection: bool = False
    rope_ratio: float = 1.0
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    quantization_bit: int = 0
    family: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Settle `family` and refuse the switches that no published checkpoint uses."""
        # The code that `auto_map` names is never run, and `save_pretrained` writes none.
        kwargs.pop("auto_map", None)
        self.family = named_family({**kwargs, "family": self.family}, {})
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call] # theirs
        for name, value in _FIXED_SETTINGS.items():
            if getattr(self, name) != value:
                raise ModelError(
                    f"`{name}` must be {value} in a ChatGLM2 or ChatGLM3 checkpoint, but "
                    f"config.json has {name}={getattr(self, name)}: no published checkpoint has "
                    "it, so it is not supported."
                )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration; of a ChatGLM-6B `config.json`, the first generation's."""
        from raytune_glm.models.chatglm_v1.configuration import ChatGLMV1Config
        from raytune_glm.models.chatglm_v1.layout import has_layout

        if has_layout(config_dict):
            return ChatGLMV1Config.from_dict(config_dict, **kwargs)
        return super().from_dict(config_dict, **kwargs)

    @property
    def num_key_value_heads(self) -> int:
        """Number of key and value heads: the groups of multi-query attention."""
        return (
            self.multi_query_group_num if self.multi_query_attention else self.num_attention_heads
        )
