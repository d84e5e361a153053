"""Byte-pair encoding with a vocabulary in tiktoken's format: a base64 token and its rank a line.

Read next: `tokenization4`.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import regex  # type: ignore[import-untyped] # it has none

from raytune_glm.errors import ModelError

# Splits text into words, numbers of up to three digits, runs of signs, and blanks: the pattern of
# `tokenization_chatglm.py` of THUDM/glm-4-9b-chat, which is that of OpenAI's cl100k_base.
_WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MAX_CACHED_WORDS = 2**16


class BytePairs:
    """A vocabulary of byte strings by rank; the rank is the id.

    Args:
        path: The vocabulary file.

    Raises:
        ModelError: A line is no base64 token with its rank, or a single byte has no token.
    """

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.ranks: dict[bytes, int] = {}
        for number, line in enumerate(self.content.splitlines(), start=1):
            try:
                token, rank = line.split()
                self.ranks[base64.b64decode(token, validate=True)] = int(rank)
            except ValueError as error:
                raise ModelError(
                    f"the tokenizer file {path} must hold a base64 token and its rank a line, but "
                    f"line {number} does not: copy it again."
                ) from error
        if not all(bytes([value]) in self.ranks for value in range(256)):
            raise ModelError(
                f"the tokenizer file {path} must have a token for every single byte, but lacks "
                "some: copy it again."
            )
        self.tokens = {rank: token for token, rank in self.ranks.items()}
        self._encode_word = lru_cache(_MAX_CACHED_WORDS)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text."""
        return [rank for word in _WORDS.findall(text) for rank in self._encode_word(word)]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Join neighbours, those of the lowest joint rank first, until no pair is a token."""
        parts = [bytes([value]) for value in word.encode()]
        while len(parts) > 1:
            pairs = [self.ranks.get(left + right) for left, right in pairwise(parts)]
            known = [rank for rank in pairs if rank is not None]
            if not known:
                break
            place = pairs.index(min(known))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return tuple(self.ranks[part] for part in parts)
