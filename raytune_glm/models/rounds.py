"""Conversations as numbered rounds of question and answer, as ChatGLM-6B and ChatGLM2-6B have them.

Neither format has a system turn, so one opens the first question. Read next: `chatglm2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raytune_glm.errors import DataError
from raytune_glm.models.family import IGNORED_LABEL, Message

RoundsEncoder = Callable[[Sequence["Round"]], tuple[list[int], list[int]]]
"""Encodes rounds, the last one without answer, to ids and labels."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A question and its answer; the last one's answer is empty and still to come."""

    question: str
    answer: str


def rounds_of(messages: Sequence[Message]) -> list[Round]:
    """Pair questions with answers.

    Raises:
        DataError: The turns are not questions and answers in turn.
    """
    opening = f"{messages[0].content}\n" if messages and messages[0].role == "system" else ""
    turns = list(messages[1:] if opening else messages)
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(turns))]
    if [turn.role for turn in turns] != expected:
        raise DataError(
            "this model's chat format has questions and answers in turn, after one system turn at "
            f"most, but got the roles {', '.join(message.role for message in messages)}."
        )
    texts = [turn.content for turn in turns] + [""]
    texts[0] = opening + texts[0]
    return [
        Round(question=question, answer=answer)
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    ]


def fitting_source(
    messages: Sequence[Message], limit: int, num_end_tokens: int, encode: RoundsEncoder
) -> tuple[list[int], list[int], bool]:
    """Encode the turns before an answer; an over-long source loses old rounds, then its end.

    Args:
        messages: The turns, a question last.
        limit: Most tokens of the source.
        num_end_tokens: Tokens at the end, the template's, that a cut leaves in place.
        encode: Encodes rounds in the family's way.

    Returns:
        Ids, labels, and whether anything was cut.
    """
    rounds = rounds_of(messages)
    ids, labels = encode(rounds)
    cut = len(ids) > limit
    while len(ids) > limit and len(rounds) > 1:
        rounds = rounds[1:]
        ids, labels = encode(rounds)
    if len(ids) > limit:
        ids = ids[: limit - num_end_tokens] + ids[-num_end_tokens:]
        labels = labels[: limit - num_end_tokens] + labels[-num_end_tokens:]
    return ids, labels, cut


def unlabelled(ids: Sequence[int]) -> list[int]:
    """Give as many labels without loss as there are ids."""
    return [IGNORED_LABEL] * len(ids)
