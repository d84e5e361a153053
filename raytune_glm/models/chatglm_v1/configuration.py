"""The ChatGLM-6B configuration under its published field names. Read next: `positions`."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from raytune_glm.models.chatglm.layout import MODEL_TYPE


class ChatGLMV1Config(PreTrainedConfig):
    """Sizes and token ids of a ChatGLM-6B model; defaults are the published checkpoint's."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "max_position_embeddings": "max_sequence_length",
        "intermediate_size": "inner_hidden_size",
    }

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    position_encoding_2d: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int = 130004
    eos_token_id: int | list[int] | None = 130005
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    pad_token_id: int | None = 3
    pre_seq_len: int | None = None
    prefix_projection: bool = False
    quantization_bit: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        """Drop what names code to run."""
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call] # theirs
