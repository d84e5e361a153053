r"""ChatGLM2-6B: numbered rounds of question and answer, no role tokens.

A row is `[gMASK] sop` + "[Round 1]\n\n问：X\n\n答：" + answer + `</s>`, as the published training
code (ChatGLM-Finetuning at a137ad63) builds it; more rounds follow as the published `chat` joins
them. Read next: `chatglm.tokenization`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raytune_glm.models.chatglm import layout
from raytune_glm.models.chatglm_family import ChatGLMFamily
from raytune_glm.models.family import IGNORED_LABEL, Encoded, Message
from raytune_glm.models.rounds import Round, fitting_source, unlabelled
from raytune_glm.models.turns import check_conversation, text_ids, token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_TEMPLATE_END_TOKENS = 4
"""Tokens of "\\n\\n答：" at a source's end, which a cut leaves in place."""
_RESERVED_TOKENS = 3
"""Tokens of a row besides source and answer: `[gMASK]`, `sop` and `</s>`."""


class ChatGLM2(ChatGLMFamily):
    """ChatGLM2-6B and its 32k variant."""

    name = "chatglm2"
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "chatglm2-6b": {**layout.CONFIG_6B, "family": "chatglm2", "seq_length": 32768},
            "chatglm2-6b-32k": {
                **layout.CONFIG_6B,
                "family": "chatglm2",
                "seq_length": 32768,
                "rope_ratio": 50,
            },
        }
    )

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """See `Family.encode`."""
        check_conversation(messages, last=("assistant",))
        source, labels, cut = _source(tokenizer, messages[:-1], max_source_length)
        answer = text_ids(tokenizer, messages[-1].content)
        budget = max(0, max_length - _RESERVED_TOKENS - (len(source) - 2))
        tail = [*answer[:budget], token_id(tokenizer, "</s>")]
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
        """See `Family.encode_prompt`."""
        check_conversation(messages, last=("user",))
        return _source(tokenizer, messages, max_source_length)[0]

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return [token_id(tokenizer, "</s>")]


def _source(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_source_length: int
) -> tuple[list[int], list[int], bool]:
    ids, labels, cut = fitting_source(
        messages,
        max_source_length,
        _NUM_TEMPLATE_END_TOKENS,
        lambda rounds: _encode_rounds(tokenizer, rounds),
    )
    start = [token_id(tokenizer, name) for name in ("[gMASK]", "sop")]
    return start + ids, unlabelled(start) + labels, cut


def _encode_rounds(
    tokenizer: PreTrainedTokenizerBase, rounds: Sequence[Round]
) -> tuple[list[int], list[int]]:
    """Encode the rounds as one text, as the published `chat` does; label the earlier answers."""
    text = ""
    answers: list[range] = []
    for number, spoken in enumerate(rounds, start=1):
        text += f"[Round {number}]\n\n问：{spoken.question}\n\n答："
        if number < len(rounds):
            answers.append(range(len(text), len(text) + len(spoken.answer)))
            text += f"{spoken.answer}\n\n"
    from raytune_glm.models.chatglm.tokenization import ChatGLMTokenizer

    assert isinstance(tokenizer, ChatGLMTokenizer), "ChatGLM2 rows need ChatGLM2's tokenizer"
    pieces = tokenizer.encode_with_offsets(text)
    ids = [piece.id for piece in pieces]
    labels = [
        piece.id
        if any(span.start <= piece.begin and piece.end <= span.stop for span in answers)
        else IGNORED_LABEL
        for piece in pieces
    ]
    return ids, labels
