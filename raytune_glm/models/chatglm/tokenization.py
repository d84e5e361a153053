"""The ChatGLM2 / ChatGLM3 tokenizer: a sentencepiece model with command tokens behind it.

Text never turns into a command token, however it is spelt: a row of data cannot inject a role. Ids,
decoded text and padding are those of `tokenization_chatglm.py` of THUDM/chatglm2-6b and
chatglm3-6b. Read next: `raytune_glm.models.chatglm3`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.utils.generic import PaddingStrategy

from raytune_glm.errors import ModelError
from raytune_glm.models import folder as folders
from raytune_glm.models.chatglm.layout import named_family
from raytune_glm.models.chatglm.padding import pad_with_positions

_COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_CHAT_ROLES = ("system", "user", "assistant", "observation")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token and the characters of the text that it covers."""

    id: int
    begin: int
    end: int


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Tokenizer of ChatGLM2 and ChatGLM3.

    Unlike the published one, an id beyond the vocabulary (the model has padding rows there) decodes
    to nothing in ChatGLM2 too and raises no `IndexError`, and padding on the right is possible.

    Args:
        vocab_file: The checkpoint's `tokenizer.model`.
        family: `chatglm2` or `chatglm3`; by default what the files beside `vocab_file` say.
        encode_special_tokens: Let role tokens written in a text become their ids (ChatGLM3 only).
        **kwargs: As `PreTrainedTokenizer`.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}  # noqa: RUF012 - as the base class
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012 - the same
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        *,
        family: str | None = None,
        encode_special_tokens: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = str(vocab_file)
        self.family = family or _family_beside(Path(vocab_file))
        self.encode_special_tokens = encode_special_tokens
        self.sp_model = sentencepiece.SentencePieceProcessor()
        try:
            self.sp_model.Load(self.vocab_file)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"the tokenizer file {vocab_file} is damaged or no sentencepiece model ({error}): "
                "copy it again."
            ) from error
        self._commands = self._command_ids()
        self._command_names = {token: name for name, token in self._commands.items()}
        self._role_pattern = re.compile("|".join(re.escape(role) for role in _ROLES))
        # The code files that `auto_map` names are never run and are not written on saving.
        for name in ("auto_map", "do_lower_case", "remove_space", "split_special_tokens"):
            kwargs.pop(name, None)
        for name, token in (("eos_token", "</s>"), ("pad_token", "<unk>"), ("unk_token", "<unk>")):
            kwargs[name] = token
        super().__init__(  # type: ignore[no-untyped-call] # theirs
            family=self.family,
            encode_special_tokens=encode_special_tokens,
            # Text is data: what looks like a special token in it is tokenized as text.
            split_special_tokens=True,
            **kwargs,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override] # the rest of the arguments go through
        cls, path: str | Path, *inputs: Any, **kwargs: Any
    ) -> Any:
        """Build the tokenizer of a folder or hub id; of a ChatGLM-6B checkpoint, the first's."""
        from raytune_glm.models.chatglm_v1.tokenization import ChatGLMV1Tokenizer

        folder = folders.local_folder(path, with_weights=False)
        if (folder / ChatGLMV1Tokenizer.vocab_files_names["vocab_file"]).is_file():
            return ChatGLMV1Tokenizer.from_pretrained(folder, *inputs, **kwargs)
        return super().from_pretrained(folder, *inputs, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of ids: the sentencepiece model's and the commands'."""
        return int(self.sp_model.get_piece_size()) + len(self._command_names)

    def get_vocab(self) -> dict[str, int]:
        """Map every token to its id."""
        pieces = {self.sp_model.id_to_piece(i): i for i in range(self.sp_model.get_piece_size())}
        return {**pieces, **self._commands}

    def get_command(self, token: str) -> int:
        """Give the id of a command or role token such as `[gMASK]` or `<|user|>`.

        Raises:
            KeyError: The family has no such token.
        """
        return self._commands[token]

    def encode_with_offsets(self, text: str) -> list[Piece]:
        """Encode a text without special tokens, saying which characters each token covers.

        Several byte tokens cover one character together. Worked out here, because sentencepiece's
        ways of asking for it change from release to release.
        """
        pieces: list[Piece] = []
        place = -1  # the model sees a blank before the text
        for index in self.sp_model.encode(text, out_type=int):
            token = self.sp_model.id_to_piece(index)
            if self.sp_model.is_byte(index):
                continues_character = 0x80 <= int(token[3:5], 16) < 0xC0
                place += 0 if continues_character else 1
                begin = place - 1
            else:
                begin = place
                place += len(token)
            pieces.append(Piece(id=index, begin=max(0, begin), end=place))
        return pieces

    def build_prompt(self, query: str, history: Sequence[tuple[str, str]] | None = None) -> str:
        """Write ChatGLM2's prompt: the rounds so far, then the question, numbered from 1."""
        rounds = [*(history or []), (query, None)]
        return "\n\n".join(
            f"[Round {number}]\n\n问：{question}\n\n答：{answer or ''}"
            for number, (question, answer) in enumerate(rounds, start=1)
        )

    def build_single_message(self, role: str, metadata: str, message: str) -> list[int]:
        """Encode one turn of ChatGLM3's chat: role token, the line with the metadata, the text.

        Raises:
            ValueError: The role is not one of ChatGLM3's.
        """
        if role not in _CHAT_ROLES:
            raise ValueError(f"`role` must be one of {', '.join(_CHAT_ROLES)}, but got {role!r}")
        line = self.encode(f"{metadata}\n", add_special_tokens=False)
        text = self.encode(message, add_special_tokens=False)
        return [self.get_command(f"<|{role}|>"), *line, *text]

    def build_chat_input(
        self,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        role: str = "user",
    ) -> BatchEncoding:
        """Encode ChatGLM3's chat up to where the assistant speaks.

        Args:
            query: What is said now.
            history: The turns before, `role` and `content` each, `metadata` of the assistant's (the
                tool it calls), `tools` of the system's.
            role: Who says it: `user`, or `observation` for a tool's result.

        Returns:
            A batch of one, as tensors.
        """
        ids: list[int] = []
        for turn in history or []:
            text = turn["content"]
            if turn["role"] == "system" and "tools" in turn:
                text += "\n" + json.dumps(turn["tools"], indent=4, ensure_ascii=False)
            ids.extend(self.build_single_message(turn["role"], turn.get("metadata", ""), text))
        ids.extend(self.build_single_message(role, "", query))
        ids.append(self.get_command("<|assistant|>"))
        prefix = [self.get_command("[gMASK]"), self.get_command("sop")]
        return self.pad({"input_ids": [prefix + ids]}, return_tensors="pt")

    def tokenize(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Split a text into tokens; the other arguments are the base class's and change nothing."""
        if not (self.encode_special_tokens and self.family == "chatglm3"):
            return self._pieces(text)
        tokens: list[str] = []
        end = 0
        for found in self._role_pattern.finditer(text):
            tokens.extend([*self._pieces(text[end : found.start()]), found.group()])
            end = found.end()
        return [*tokens, *self._pieces(text[end:])]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text, bytes to characters."""
        return str(self.sp_model.decode_pieces(tokens))

    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> Any:
        """Give the tokens of ids; pads, ends and ids beyond the vocabulary are empty."""
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        return [self._convert_id_to_token(int(index)) for index in ids]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Write `[gMASK] sop` before a text, and `</s>` after a pair."""
        ids = [self.get_command("[gMASK]"), self.get_command("sop"), *token_ids_0]
        if token_ids_1 is not None:
            ids += [*token_ids_1, self.sp_model.eos_id()]
        return ids

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `tokenizer.model` and give its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vocab_file']}"
        path.write_bytes(self.sp_model.serialized_model_proto())
        return (str(path),)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["sp_model"] = self.sp_model.serialized_model_proto()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sp_model = sentencepiece.SentencePieceProcessor(model_proto=state["sp_model"])

    def _command_ids(self) -> dict[str, int]:
        """Number the commands behind the sentencepiece model's pieces, in the published order."""
        names = _COMMANDS + (_ROLES if self.family == "chatglm3" else ())
        return dict(zip(names, itertools.count(self.sp_model.get_piece_size())))

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = self.sp_model.encode(text, out_type=str)
        return pieces

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self._pieces(text)

    def _convert_token_to_id(self, token: str) -> int:
        known = self._commands.get(token)
        return int(self.sp_model.piece_to_id(token)) if known is None else known

    def _convert_token_to_id_with_added_voc(self, token: str) -> int:
        return self._convert_token_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        if self.family == "chatglm3" and index in self._command_names:
            return self._command_names[index]
        in_model = 0 <= index < self.sp_model.get_piece_size()
        if not in_model or self.sp_model.is_control(index) or self.sp_model.is_unknown(index):
            return ""
        return str(self.sp_model.id_to_piece(index))

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


def _family_beside(vocab_file: Path) -> str:
    """Tell the family from the config files that lie beside a vocabulary."""
    found = named_family(
        folders.read_optional_json(vocab_file.parent, "config.json"),
        folders.read_optional_json(vocab_file.parent, "tokenizer_config.json"),
    )
    if found is None:
        raise ModelError(
            f"nothing beside {vocab_file} tells whether it is ChatGLM2's or ChatGLM3's: give "
            "`family` (in a sweep file `model.family`) as chatglm2 or chatglm3."
        )
    return found
