"""The ChatGLM-6B tokenizer: a sentencepiece model in which blanks and line breaks are tokens.

Ids, decoded text and padding are those of `tokenization_chatglm.py` of THUDM/chatglm-6b: ids are
the sentencepiece model's plus `num_image_tokens`; a prompt ends with `[gMASK] <sop>`; where pads
are asked for, the mask is the published one, [1, L, L] and True where a position is NOT seen, and
positions have two streams. Read next: `raytune_glm.models.chatglm1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import sentencepiece
from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.utils.generic import PaddingStrategy

from raytune_glm.errors import ModelError

_MAX_BLANKS = 80
"""Longest run of blanks that is one token, `<|blank_80|>`."""
_DEFAULT_NUM_IMAGE_TOKENS = 20000
"""The published code's default; the published checkpoint's `tokenizer_config.json` says 0."""


class ChatGLMV1Tokenizer(PreTrainedTokenizer):
    """Tokenizer of ChatGLM-6B.

    Unlike the published one, an id beyond the vocabulary decodes to nothing and raises no
    `IndexError`, and where a row holds `[gMASK]` and `[MASK]`, mask and positions follow `[gMASK]`,
    as the model does.

    Args:
        vocab_file: The checkpoint's `ice_text.model`.
        num_image_tokens: Ids before the first text token.
        **kwargs: As `PreTrainedTokenizer`.
    """

    vocab_files_names = {"vocab_file": "ice_text.model"}  # noqa: RUF012 - as the base class
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012 - the same
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        *,
        num_image_tokens: int = _DEFAULT_NUM_IMAGE_TOKENS,
        **kwargs: Any,
    ) -> None:
        self.vocab_file = str(vocab_file)
        self.num_image_tokens = num_image_tokens
        self.sp_model = sentencepiece.SentencePieceProcessor()
        try:
            self.sp_model.Load(self.vocab_file)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"the tokenizer file {vocab_file} is damaged or no sentencepiece model ({error}): "
                "copy it again."
            ) from error
        for name in ("auto_map", "do_lower_case", "remove_space", "end_token", "gmask_token"):
            kwargs.pop(name, None)
        kwargs.pop("model_specific_special_tokens", None)
        names = {
            "bos_token": "<sop>",
            "eos_token": "<eop>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "[MASK]",
        }
        super().__init__(  # type: ignore[no-untyped-call] # theirs
            num_image_tokens=num_image_tokens, **{**kwargs, **names}
        )

    @property
    def gmask_token_id(self) -> int:
        """Id of `[gMASK]`, which stands where an answer is to be generated."""
        return self._convert_token_to_id("[gMASK]")

    @property
    def end_token_id(self) -> int:
        """Id of `</s>`."""
        return self._convert_token_to_id("</s>")

    @property
    def vocab_size(self) -> int:
        """Number of ids, image ids included."""
        return int(self.sp_model.get_piece_size()) + self.num_image_tokens

    def get_vocab(self) -> dict[str, int]:
        """Map every token to its id."""
        return {self._convert_id_to_token(index): index for index in range(self.vocab_size)}

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text, blank and line break tokens to blanks and line breaks."""
        text = str(self.sp_model.decode_pieces(tokens))
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        for length in range(2, _MAX_BLANKS + 1):
            text = text.replace(f"<|blank_{length}|>", " " * length)
        return text

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Write `[gMASK] <sop>` behind a text, and `<eop>` behind a pair."""
        ids = [*token_ids_0, self.gmask_token_id, self._convert_token_to_id("<sop>")]
        if token_ids_1 is not None:
            ids += [*token_ids_1, self._convert_token_to_id("<eop>")]
        return ids

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write `ice_text.model` and give its path."""
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

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        for length in range(_MAX_BLANKS, 1, -1):
            text = text.replace(" " * length, f"<|blank_{length}|>")
        pieces: list[str] = self.sp_model.encode(text, out_type=str)
        return pieces

    def _convert_token_to_id(self, token: str) -> int:
        if token.startswith("<image_") and token[7:-1].isdigit():
            return int(token[7:-1])
        return int(self.sp_model.piece_to_id(token)) + self.num_image_tokens

    def _convert_id_to_token(self, index: int) -> str:
        if index < self.num_image_tokens:
            return f"<image_{index}>"
        piece = index - self.num_image_tokens
        return str(self.sp_model.id_to_piece(piece)) if piece < len(self.sp_model) else ""

    def _decode(self, token_ids: int | list[int], *args: Any, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        kept = [index for index in ids if index != self.pad_token_id]
        return str(super()._decode(kept, *args, **kwargs)) if kept else ""

    def _pad(
        self,
        encoded_inputs: dict[str, Any] | BatchEncoding,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        """Pad on the left; make the published mask and positions where a length is asked for."""
        if (padding_side or self.padding_side) != "left":
            raise ValueError("ChatGLM-6B's tokenizer pads on the left only")
        ids = list(encoded_inputs["input_ids"])
        num_tokens = len(ids)
        padded = super()._pad(
            {"input_ids": ids},
            max_length=max_length,
            padding_strategy=padding_strategy,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side="left",
            return_attention_mask=False,
        )
        encoded_inputs["input_ids"] = padded["input_ids"]
        if padding_strategy != PaddingStrategy.DO_NOT_PAD or max_length is not None:
            num_pads = len(padded["input_ids"]) - num_tokens
            encoded_inputs["attention_mask"] = self._hidden_positions(ids, num_pads)
            encoded_inputs["position_ids"] = self._positions(ids, num_pads)
        return encoded_inputs

    def _answer_start(self, ids: Sequence[int]) -> int:
        """Find `<sop>`; a row without it is all context."""
        return ids.index(self.bos_token_id) if self.bos_token_id in ids else len(ids)

    def _hidden_positions(self, ids: Sequence[int], num_pads: int) -> Any:
        """Say which positions are not seen, [1, L, L]: what is later than `<sop>`, and pads."""
        hidden = numpy.ones((len(ids), len(ids)), dtype=bool)
        hidden = numpy.triu(hidden, k=1)
        hidden[:, : self._answer_start(ids)] = False
        return numpy.pad(hidden, ((num_pads, 0), (num_pads, 0)), constant_values=True)[None]

    def _positions(self, ids: Sequence[int], num_pads: int) -> Any:
        """Count both streams, [2, L]; pads have 0 in both."""
        start = self._answer_start(ids)
        masks = [token for token in (self.gmask_token_id, self.mask_token_id) if token in ids]
        first = numpy.arange(len(ids))
        if masks:
            first[start:] = ids.index(masks[0])
        second = numpy.concatenate(
            (numpy.zeros(start, dtype=int), numpy.arange(1, len(ids) - start + 1))
        )
        return numpy.pad(numpy.stack((first, second)), ((0, 0), (num_pads, 0)))
