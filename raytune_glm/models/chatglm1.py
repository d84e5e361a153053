r"""ChatGLM-6B, the first generation: a context seen whole, then the answer.

A row is "[Round 1]\n问：X\n答：" + `[gMASK] <sop>` + answer + `<eop>`, as the published training
code (ChatGLM-Finetuning at a137ad63) builds it. Its prompt for generating is the same template,
where the published prediction code forgets it; rounds before are numbered from 0, as the published
`chat` does. Read next: `chatglm_v1.tokenization`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raytune_glm.models.chatglm_v1 import layout
from raytune_glm.models.family import Encoded, Family, Message, ModelShape
from raytune_glm.models.rounds import Round, fitting_source, unlabelled
from raytune_glm.models.turns import check_conversation, text_ids, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_TEMPLATE_END_TOKENS = 3
"""Tokens of "\\n答：" at a source's end, which a cut leaves in place."""
_RESERVED_TOKENS = 3
"""Tokens of a row besides source and answer: `[gMASK]`, `<sop>` and `<eop>`."""


class ChatGLM1(Family):
    """ChatGLM-6B."""

    name = "chatglm"
    layers_path = layout.LAYERS_PATH
    attention_modules = ("query_key_value", "dense")
    mlp_modules = ("dense_h_to_4h", "dense_4h_to_h")
    default_lora_modules = ("query_key_value",)
    tokenizer_files = ("ice_text.model",)
    has_own_prefix = True
    supports_flash_attention = False
    needs_token_ids = True
    # Of `config.json` of THUDM/chatglm-6b at the hub.
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "chatglm-6b": {
                "model_type": "chatglm",
                "vocab_size": 130528,
                "hidden_size": 4096,
                "inner_hidden_size": 16384,
                "num_layers": 28,
                "num_attention_heads": 32,
                "max_sequence_length": 2048,
                "layernorm_epsilon": 1e-5,
                "position_encoding_2d": True,
                "bos_token_id": 130004,
                "eos_token_id": 130005,
                "mask_token_id": 130000,
                "gmask_token_id": 130001,
                "pad_token_id": 3,
            }
        }
    )

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`."""
        return layout.has_layout(config)

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`."""
        return layout.shape(config)

    def model_class(self) -> Any:
        """See `Family.model_class`."""
        from raytune_glm.models.chatglm_v1.modeling import ChatGLMV1ForConditionalGeneration

        return ChatGLMV1ForConditionalGeneration

    def build_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """See `Family.build_tokenizer`."""
        from raytune_glm.models.chatglm_v1.tokenization import ChatGLMV1Tokenizer

        tokenizer: PreTrainedTokenizerBase = ChatGLMV1Tokenizer.from_pretrained(
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
        """See `Family.encode`.

        Loss is also taken on `<sop>`. Earlier answers carry none: they are context, which the model
        sees whole, so there is nothing to predict.
        """
        check_conversation(messages, last=("assistant",))
        source, cut = _source(tokenizer, messages[:-1], max_source_length)
        answer = text_ids(tokenizer, messages[-1].content)
        budget = max(0, max_length - _RESERVED_TOKENS - len(source))
        tail = [token_id(tokenizer, "<sop>"), *answer[:budget], token_id(tokenizer, "<eop>")]
        context = [*source, token_id(tokenizer, "[gMASK]")]
        return Encoded(
            input_ids=context + tail,
            labels=unlabelled(context) + tail,
            truncated=cut or len(answer) > budget,
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """See `Family.encode_prompt`."""
        check_conversation(messages, last=("user",))
        source, _ = _source(tokenizer, messages, max_source_length)
        return [*source, token_id(tokenizer, "[gMASK]"), token_id(tokenizer, "<sop>")]

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return [token_id(tokenizer, "<eop>")]


def _source(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_source_length: int
) -> tuple[list[int], bool]:
    def encode(rounds: Sequence[Round]) -> tuple[list[int], list[int]]:
        first = 0 if len(rounds) > 1 else 1
        text = "\n".join(
            f"[Round {number}]\n问：{spoken.question}\n答：{spoken.answer}"
            for number, spoken in enumerate(rounds, start=first)
        )
        ids = text_ids(tokenizer, text)
        return ids, unlabelled(ids)

    ids, _, cut = fitting_source(messages, max_source_length, _NUM_TEMPLATE_END_TOKENS, encode)
    return ids, cut
