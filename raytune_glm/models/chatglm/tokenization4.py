"""The tokenizer of GLM-4-9B's first release: byte pairs with command tokens behind them.

Text never turns into a command token, however it is spelt. Ids follow `tokenization_chatglm.py` of
THUDM/glm-4-9b-chat. Read next: `raytune_glm.models.chatglm4`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.utils.generic import PaddingStrategy

from raytune_glm.models.chatglm.bytepairs import BytePairs
from raytune_glm.models.chatglm.padding import pad_with_positions

_COMMANDS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
"""Behind the vocabulary in this order, by the checkpoint's `tokenizer_config.json`."""


class ChatGLM4Tokenizer(PreTrainedTokenizer):
    """Tokenizer of GLM-4-9B as first released.

    Args:
        vocab_file: The checkpoint's `tokenizer.model`, in tiktoken's format.
        **kwargs: As `PreTrainedTokenizer`.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012 - as the base class
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012 - the same
    padding_side = "left"

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self.vocab_file = str(vocab_file)
        self.pairs = BytePairs(Path(vocab_file))
        self._commands = dict(zip(_COMMANDS, itertools.count(len(self.pairs.ranks)), strict=False))
        self._names = {index: name for name, index in self._commands.items()}
        # Commands are known by place; code that `auto_map` names is never run; the chat template
        # would be a second description of what the family file describes.
        for name in (
            "added_tokens_decoder",
            "additional_special_tokens",
            "auto_map",
            "do_lower_case",
            "remove_space",
            "split_special_tokens",
        ):
            kwargs.pop(name, None)
        kwargs |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        kwargs["extra_special_tokens"] = list(_COMMANDS[1:])
        super().__init__(  # type: ignore[no-untyped-call] # theirs
            split_special_tokens=True, **kwargs
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids: the byte pairs' and the commands'."""
        return len(self.pairs.ranks) + len(self._commands)

    def get_vocab(self) -> dict[str, int]:
        """Map every token to its id; bytes are written as Latin-1 characters."""
        return {token.decode("latin-1"): rank for token, rank in self.pairs.ranks.items()} | (
            self._commands
        )

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Write `[gMASK] <sop>` before a text, and `<|endoftext|>` after a pair."""
        ids = [self._commands["[gMASK]"], self._commands["<sop>"], *token_ids_0]
        if token_ids_1 is not None:
            ids += [*token_ids_1, self._commands["<|endoftext|>"]]
        return ids

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text; bytes that are no text become replacement characters."""
        parts = [
            token.encode() if token in self._commands else token.encode("latin-1")
            for token in tokens
        ]
        return b"".join(parts).decode(errors="replace")

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `tokenizer.model` and give its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        path.write_bytes(self.pairs.content)
        return (str(path),)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self.pairs.tokens[rank].decode("latin-1") for rank in self.pairs.encode(text)]

    def _convert_token_to_id(self, token: str) -> int | None:
        if token in self._commands:
            return self._commands[token]
        try:
            return self.pairs.ranks.get(token.encode("latin-1"))
        except UnicodeEncodeError:
            return None

    def _convert_id_to_token(self, index: int) -> str:
        if index in self._names:
            return self._names[index]
        return self.pairs.tokens.get(index, b"").decode("latin-1")

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> Any:
        """Give the tokens of ids; ids beyond the vocabulary are empty."""
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        return [
            self._convert_id_to_token(int(index))
            for index in ids
            if not (skip_special_tokens and int(index) in self._names)
        ]

    def _pad(
        self,
        encoded_inputs: dict[str, Any] | BatchEncoding,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        """Pad as the base class does, and the positions too: pads have position 0."""
        return pad_with_positions(
            super()._pad,
            encoded_inputs,
            side=padding_side or self.padding_side,
            max_length=max_length,
            padding_strategy=padding_strategy,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
        )
