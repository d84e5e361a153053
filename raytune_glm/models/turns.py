"""Turns of a conversation as token ids, and how a conversation that is too long loses its oldest.

Shared by the families whose chat format is a plain sequence of turns. Read next: `chatglm3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raytune_glm.errors import DataError
from raytune_glm.models.family import IGNORED_LABEL, Message, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn's tokens, its template included."""

    role: Role
    ids: list[int]

    @property
    def labels(self) -> list[int]:
        """The ids where the assistant speaks, `IGNORED_LABEL` elsewhere."""
        return self.ids if self.role == "assistant" else [IGNORED_LABEL] * len(self.ids)


def latest(turns: Sequence[Turn], limit: int) -> list[Turn]:
    """Drop the oldest exchanges until the rest has at most `limit` tokens.

    A system turn at the start stays, what remains starts with a user's turn, and the last user's
    turn with what follows it stays whatever its length.
    """
    system = list(turns[:1]) if turns and turns[0].role == "system" else []
    rest = list(turns[len(system) :])
    while sum(len(turn.ids) for turn in system + rest) > limit:
        starts = [place for place, turn in enumerate(rest) if turn.role == "user" and place > 0]
        if not starts:
            break
        rest = rest[starts[0] :]
    return system + rest


def check_conversation(messages: Sequence[Message], *, last: Sequence[Role]) -> None:
    """Refuse a conversation that is empty or does not end with one of the roles in `last`.

    Raises:
        DataError: With the role it ends with.
    """
    if not messages or messages[-1].role not in last:
        found = f"one that ends with role={messages[-1].role!r}" if messages else "no turn at all"
        raise DataError(
            f"a conversation must end with a turn of the {' or '.join(last)}, but got {found}."
        )


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Give the id of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), f"{token} is one token"
    return found


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode a text without adding special tokens."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
