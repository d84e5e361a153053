"""Pretraining text as batches of token ids, without any entity of the dev and test rows in it.

Read next: `circuit`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from corpus import documents, tasks
from torch import Tensor

from raytune_glm.models import FAMILIES, Message
from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENT_SHARE = 0.06
"""Share of plain paragraphs among the conversations."""
MAX_LENGTH = 320
_POOL_ROWS = 600
"""Rows that are sorted by length together, so that a batch pads little."""

_FAMILY = FAMILIES["chatglm3"]

Example = tuple[list[int], list[int]]
"""Token ids and labels."""

Text = list[tasks.Exchange] | str
"""A conversation or a paragraph."""


class Kept:
    """What must not stand in the pretraining text: every entity of the dev and test rows."""

    def __init__(self, folder: Path) -> None:
        self.entities: set[str] = set()
        for file in (folder / "dev.jsonl", folder / "test.jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                for triple in json.loads(line)["output"].split("\n"):
                    head, _, tail = triple.split("_")
                    self.entities |= {head, tail}
        self._lengths = sorted({len(entity) for entity in self.entities})

    def stands_in(self, text: str) -> bool:
        """Say whether an entity of the data stands in `text`."""
        return any(
            text[start : start + length] in self.entities
            for length in self._lengths
            for start in range(len(text) - length + 1)
        )


def texts(count: int, kept: Kept, rng: random.Random) -> Iterator[Text]:
    """Make `count` conversations and paragraphs."""
    made = 0
    while made < count:
        if rng.random() < DOCUMENT_SHARE:
            text: Text = documents.make_document(rng)
        else:
            text = tasks.make_conversation(rng)
        if not kept.stands_in("\n".join(parts(text))):
            made += 1
            yield text


def parts(text: Text) -> list[str]:
    """Give the strings of a conversation or a paragraph."""
    if isinstance(text, str):
        return [text]
    return [part for exchange in text for part in (*exchange.question, exchange.answer)]


def encode(text: Text, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Encode a conversation with loss on its answers, or a paragraph with loss on all."""
    if isinstance(text, str):
        start = [tokenizer.convert_tokens_to_ids(token) for token in ("[gMASK]", "sop")]
        end = [tokenizer.convert_tokens_to_ids("</s>")]
        ids = start + tokenizer.encode(text, add_special_tokens=False) + end
        return ids, ids
    messages = []
    for exchange in text:
        messages.append(Message(role="user", parts=exchange.question))
        messages.append(Message(role="assistant", parts=(exchange.answer,)))
    encoded = _FAMILY.encode(
        tokenizer, messages, max_length=MAX_LENGTH, max_source_length=MAX_LENGTH
    )
    return encoded.input_ids, encoded.labels


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Pad on the right: ids and labels, [rows, tokens]."""
    length = max(len(ids) for ids, _ in examples)
    return (
        torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in examples]),
        torch.tensor([labels + [IGNORED_LABEL] * (length - len(labels)) for _, labels in examples]),
    )


def batches(
    tokenizer: PreTrainedTokenizerBase, kept: Kept, rng: random.Random, *, num_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of at most `num_tokens` tokens, padding included, without end."""
    while True:
        pool = [encode(text, tokenizer) for text in texts(_POOL_ROWS, kept, rng)]
        pool.sort(key=lambda example: len(example[0]))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if len(example[0]) * (len(groups[-1]) + 1) > num_tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from (collate(group) for group in groups if group)
