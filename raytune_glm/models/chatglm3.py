r"""ChatGLM3-6B: role tokens around each turn.

A row is `[gMASK] sop <|user|> "\n" question <|assistant|> "\n" answer </s>`, as the published
training code (ChatGLM-Finetuning at a137ad63) builds it. Read next: `chatglm.tokenization`.
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

# The published code takes 9 tokens from what the source leaves to the answer: `[gMASK] sop`, the
# assistant's role token and line break (3 tokens), `</s>`, and 3 that stay unused in a full row.
_FORMAT = RoleFormat(start=("[gMASK]", "sop"), end="</s>", num_reserved=9)


class ChatGLM3(Family):
    """ChatGLM3-6B and its base and 32k variants."""

    name = "chatglm3"
    layers_path = layout.LAYERS_PATH
    attention_modules = ("query_key_value", "dense")
    mlp_modules = ("dense_h_to_4h", "dense_4h_to_h")
    default_lora_modules = ("query_key_value", "dense_h_to_4h", "dense_4h_to_h", "dense")
    tokenizer_files = ("tokenizer.model",)
    has_own_prefix = True
    joining_model_types = (layout.MODEL_TYPE,)
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "chatglm3-6b": {**layout.CONFIG_6B, "family": "chatglm3"},
            "chatglm3-6b-32k": {
                **layout.CONFIG_6B,
                "family": "chatglm3",
                "seq_length": 32768,
                "rope_ratio": 50,
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
        from raytune_glm.models.chatglm.tokenization import ChatGLMTokenizer

        tokenizer: PreTrainedTokenizerBase = ChatGLMTokenizer.from_pretrained(
            folder, family=self.name, local_files_only=True
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
