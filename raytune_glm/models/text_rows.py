"""Rows and prompts of models whose conversation is one text: a chat template's, or Alpaca's.

The tokenizer's own chat template is used where there is one; otherwise Stanford Alpaca's
instruction template (its repository's `train.py`, Apache-2.0). Read next: `llama`, `generic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raytune_glm.errors import DataError
from raytune_glm.models.family import IGNORED_LABEL, Encoded, Message
from raytune_glm.models.turns import check_conversation, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{}\n\n### Response:\n"
)


def encode_row(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    max_length: int,
    max_source_length: int,
) -> Encoded:
    """Encode a training row; loss on what the assistant says and on the token that ends its turn.

    A source that is too long loses its oldest exchanges, then the end of the last question, so that
    the template stays whole.
    """
    check_conversation(messages, last=("assistant",))
    source, kept = _fitting_source(tokenizer, messages[:-1], max_source_length)
    answer = _answer_ids(tokenizer, [*kept, messages[-1]], source)
    budget = max(1, max_length - len(source))
    ends = _turn_ends(tokenizer, kept)
    tail = answer if len(answer) <= budget else [*answer[: budget - 1], ends[0]]
    return Encoded(
        input_ids=source + tail,
        labels=_source_labels(tokenizer, kept, source) + tail,
        truncated=len(answer) > budget or list(kept) != list(messages[:-1]),
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_source_length: int
) -> list[int]:
    """Encode what `encode_row` puts before the last answer."""
    check_conversation(messages, last=("user", "tool"))
    return _fitting_source(tokenizer, messages, max_source_length)[0]


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Give the end of text, and the token with which the chat template ends a turn."""
    question = Message(role="user", parts=("?",))
    ends = [*_turn_ends(tokenizer, [question]), tokenizer.eos_token_id]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _fitting_source(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], limit: int
) -> tuple[list[int], list[Message]]:
    """Encode the turns before an answer within `limit` tokens; give the turns that were kept."""
    kept = list(messages)
    ids = text_ids(tokenizer, _prompt_text(tokenizer, kept))
    while len(ids) > limit:
        system = 1 if kept[0].role == "system" else 0
        starts = [place for place, turn in enumerate(kept) if turn.role == "user"][1:]
        if starts:
            kept = kept[:system] + kept[starts[0] :]
        else:
            shorter = _shortened(tokenizer, kept[-1], len(ids) - limit)
            if shorter == kept[-1]:
                raise DataError(
                    f"`max_source_length` must leave room for the prompt template, but got "
                    f"max_source_length={limit} where the template alone has {len(ids)} tokens."
                )
            kept = [*kept[:-1], shorter]
        ids = text_ids(tokenizer, _prompt_text(tokenizer, kept))
    return ids, kept


def _shortened(tokenizer: PreTrainedTokenizerBase, turn: Message, excess: int) -> Message:
    """Take `excess` tokens from the end of a turn's text, its last part first."""
    parts = list(turn.parts)
    for place in reversed(range(len(parts))):
        ids = text_ids(tokenizer, parts[place])
        if not ids:
            continue
        taken = min(excess, len(ids))
        shorter = str(tokenizer.decode(ids[: len(ids) - taken], skip_special_tokens=False))
        # A tokenizer that does not give back its own text must still make progress.
        parts[place] = shorter if len(shorter) < len(parts[place]) else parts[place][:-1]
        excess -= taken
        if excess <= 0:
            break
    return replace(turn, parts=tuple(parts))


def _prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    if tokenizer.chat_template:
        return str(
            tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        )
    return _alpaca_text(tokenizer, messages)


def _alpaca_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Write Alpaca's template once an exchange; a system turn opens the first instruction."""
    text = tokenizer.bos_token or ""
    opening = ""
    for turn in messages:
        if turn.role == "system":
            opening = f"{turn.content}\n"
        elif turn.role == "assistant":
            text += f"{turn.content}{tokenizer.eos_token or ''}\n\n"
        else:
            instruction, context = opening + turn.parts[0], "".join(turn.parts[1:])
            opening = ""
            text += (
                _ALPACA_WITH_INPUT.format(instruction, context)
                if context
                else _ALPACA.format(instruction)
            )
    return text


def _with_answer_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    if tokenizer.chat_template:
        return str(
            tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in messages], tokenize=False
            )
        )
    source = _alpaca_text(tokenizer, messages[:-1])
    return f"{source}{messages[-1].content}{tokenizer.eos_token or ''}"


def _answer_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], source: list[int]
) -> list[int]:
    """Give the ids of the last turn as they follow `source`, the token that ends the turn included.

    Answer and source are tokenized together, so that no blank appears between them that the model
    would not generate; apart only where a token would straddle the border.
    """
    together = text_ids(tokenizer, _with_answer_text(tokenizer, messages))
    if together[: len(source)] == source:
        answer = together[len(source) :]
    else:
        answer = text_ids(tokenizer, messages[-1].content)
    for end in _turn_ends(tokenizer, messages[:-1]):
        if end in answer:
            return answer[: answer.index(end) + 1]
    return [*answer, _turn_ends(tokenizer, messages[:-1])[0]]


def _source_labels(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], source: list[int]
) -> list[int]:
    """Label the earlier answers in a source, each found as what follows the prompt before it."""
    labels = [IGNORED_LABEL] * len(source)
    for place, turn in enumerate(messages):
        if turn.role != "assistant" or place == 0:
            continue
        before = text_ids(tokenizer, _prompt_text(tokenizer, messages[:place]))
        # A template that rewrites earlier turns has no such prefix; then they carry no loss.
        if source[: len(before)] == before:
            answer = _answer_ids(tokenizer, messages[: place + 1], before)
            end = len(before) + len(answer)
            if source[len(before) : end] == answer:
                labels[len(before) : end] = answer
    return labels


def _turn_ends(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Give the token that ends the assistant's turn: the template's, then the end of text."""
    ends: list[int] = []
    if tokenizer.chat_template:
        mark = "x"
        question = [turn for turn in messages if turn.role == "user"][-1:]
        text = _with_answer_text(tokenizer, [*question, Message(role="assistant", parts=(mark,))])
        behind = text_ids(tokenizer, text[text.rindex(mark) + len(mark) :].strip())
        ends.extend(token for token in behind[:1] if token in tokenizer.all_special_ids)
    if tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise DataError(
            "a tokenizer must have an end-of-text token (`eos_token` in tokenizer_config.json), "
            "but this one has none: the model could not learn where to stop."
        )
    return ends
