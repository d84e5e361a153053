r"""GLM-4-9B's first release: the ChatGLM layout with a byte-pair vocabulary in tiktoken's format.

A row is `[gMASK]<sop><|user|>\n question <|assistant|>\n answer <|endoftext|>`, ChatGLM3's with
other start and end tokens. (The later release, `glm-4-9b-chat-hf`, is transformers' own `glm`
architecture and of the family `glm`.) Read next: `chatglm.tokenization4`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raytune_glm.models.chatglm import layout
from raytune_glm.models.family import Encoded, Family, Message, ModelShape
from raytune_glm.models.role_rows import RoleFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# `[gMASK] <sop>`, the assistant's role token and line break, `<|endoftext|>`.
_FORMAT = RoleFormat(start=("[gMASK]", "<sop>"), end="<|endoftext|>", num_reserved=5)

_CONFIG_9B = {
    **layout.CONFIG_6B,
    "family": "chatglm4",
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "seq_length": 131072,
    "rope_ratio": 500,
    "layernorm_epsilon": 1.5625e-07,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}


class ChatGLM4(Family):
    """GLM-4-9B and GLM-4-9B-Chat as first released."""

    name = "chatglm4"
    layers_path = layout.LAYERS_PATH
    attention_modules = ("query_key_value", "dense")
    mlp_modules = ("dense_h_to_4h", "dense_4h_to_h")
    default_lora_modules = ("query_key_value", "dense_h_to_4h", "dense_4h_to_h", "dense")
    tokenizer_files = ("tokenizer.model",)
    has_own_prefix = True
    joining_model_types = (layout.MODEL_TYPE,)
    # From `config.json` of THUDM/glm-4-9b-chat and glm-4-9b-chat-1m.
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "glm-4-9b-chat": _CONFIG_9B,
            "glm-4-9b-chat-1m": {
                **_CONFIG_9B,
                "multi_query_group_num": 4,
                "seq_length": 1048576,
                "rope_ratio": 10000,
            },
        }
    )

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return layout.has_layout(config)

    def matches(self, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> bool:
        """See `Family.matches`."""
        return self.has_layout(config) and (
            layout.named_family(config, tokenizer_config) == self.name
        )

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        return layout.shape(config)

    def prefix_embedding_size(self, shape: ModelShape) -> int:
        """See `Family.prefix_embedding_size`."""
        return layout.prefix_embedding_size(shape)

    def model_class(self) -> Any:
        """See `Family.model_class`."""
        from raytune_glm.models.chatglm.modeling import ChatGLMForConditionalGeneration

        return ChatGLMForConditionalGeneration

    def build_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """See `Family.build_tokenizer`."""
        from raytune_glm.models.chatglm.tokenization4 import ChatGLM4Tokenizer

        tokenizer: PreTrainedTokenizerBase = ChatGLM4Tokenizer.from_pretrained(
            folder, local_files_only=True
        )
        return tokenizer

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """See `Family.encode`."""
        return _FORMAT.encode_row(
            tokenizer, messages, max_length=max_length, max_source_length=max_source_length
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """See `Family.encode_prompt`."""
        return _FORMAT.encode_prompt(tokenizer, messages, max_source_length=max_source_length)

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return _FORMAT.stop_token_ids(tokenizer)
