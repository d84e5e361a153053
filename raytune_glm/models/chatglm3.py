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
from raytune_glm.models.family import IGNORED_LABEL, Encoded, Family, Message, ModelShape, Role
from raytune_glm.models.turns import Turn, check_conversation, latest, text_ids, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLE_TOKENS: dict[Role, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
}
_RESERVED_TOKENS = 9
"""Tokens that source and answer leave free in a row: `[gMASK] sop`, `<|assistant|>` with its line
break (3), `</s>`, and 3 more that the published code leaves unused, so that a row ends at
`max_length - 3`."""


class ChatGLM3(Family):
    """ChatGLM3-6B and its base and 32k variants."""

    name = "chatglm3"
    layers_path = layout.LAYERS_PATH
    attention_modules = ("query_key_value", "dense")
    mlp_modules = ("dense_h_to_4h", "dense_4h_to_h")
    default_lora_modules = ("query_key_value", "dense_h_to_4h", "dense_4h_to_h", "dense")
    tokenizer_files = ("tokenizer.model",)
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
        """See `Family.encode`. Loss is also taken on `<|assistant|>` and its line break."""
        check_conversation(messages, last=("assistant",))
        source, labels, cut = self._source(tokenizer, messages[:-1], max_source_length)
        answer = text_ids(tokenizer, messages[-1].content)
        budget = max(0, max_length - _RESERVED_TOKENS - (len(source) - 2))
        start = _turn_start(tokenizer, "assistant")
        tail = [*start, *answer[:budget], token_id(tokenizer, "</s>")]
        return Encoded(
            input_ids=source + tail, labels=labels + tail, truncated=cut or len(answer) > budget
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """See `Family.encode_prompt`. It ends with `<|assistant|>`; the line break is generated."""
        check_conversation(messages, last=("user", "tool"))
        source, _, _ = self._source(tokenizer, messages, max_source_length)
        return [*source, _turn_start(tokenizer, "assistant")[0]]

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`: `</s>`, and the roles that can follow the assistant's."""
        names = ("</s>", _ROLE_TOKENS["user"], _ROLE_TOKENS["tool"])
        return [token_id(tokenizer, name) for name in names]

    def _source(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        max_source_length: int,
    ) -> tuple[list[int], list[int], bool]:
        """Encode the turns before an answer; an over-long source loses old turns, then its end."""
        turns = [
            Turn(
                role=message.role,
                ids=_turn_start(tokenizer, message.role) + text_ids(tokenizer, message.content),
            )
            for message in messages
        ]
        kept = latest(turns, max_source_length)
        ids = [token for turn in kept for token in turn.ids]
        labels = [label for turn in kept for label in turn.labels]
        start = [token_id(tokenizer, name) for name in ("[gMASK]", "sop")]
        return (
            start + ids[:max_source_length],
            [IGNORED_LABEL] * len(start) + labels[:max_source_length],
            len(kept) < len(turns) or len(ids) > max_source_length,
        )


def _turn_start(tokenizer: PreTrainedTokenizerBase, role: Role) -> list[int]:
    return [token_id(tokenizer, _ROLE_TOKENS[role]), *text_ids(tokenizer, "\n")]
