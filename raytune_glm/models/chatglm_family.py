"""What the families of ChatGLM2's architecture have in common: one layout, one code.

Read next: `chatglm.layout`; `chatglm3`, `chatglm4`, `chatglm2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.models.chatglm import layout
from raytune_glm.models.family import Encoded, Family, Message, ModelShape
from raytune_glm.models.role_rows import RoleFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatGLMFamily(Family):
    """A family whose checkpoints have ChatGLM2's layout; its files' names tell which it is."""

    layers_path = layout.LAYERS_PATH
    attention_modules = ("query_key_value", "dense")
    mlp_modules = ("dense_h_to_4h", "dense_4h_to_h")
    default_lora_modules = ("query_key_value", "dense_h_to_4h", "dense_4h_to_h", "dense")
    tokenizer_files = ("tokenizer.model",)
    has_own_prefix = True
    joining_model_types = (layout.MODEL_TYPE,)

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
        from raytune_glm.models.chatglm.tokenization import ChatGLMTokenizer

        tokenizer: PreTrainedTokenizerBase = ChatGLMTokenizer.from_pretrained(
            folder, family=self.name, local_files_only=True
        )
        return tokenizer


class RoleFamily(ChatGLMFamily):
    """Such a family with a role token before each turn."""

    rows: RoleFormat
    """How its conversations become tokens."""

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """See `Family.encode`."""
        return self.rows.encode_row(
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
        return self.rows.encode_prompt(tokenizer, messages, max_source_length=max_source_length)

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return self.rows.stop_token_ids(tokenizer)
