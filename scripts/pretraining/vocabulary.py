"""A sentencepiece model in ChatGLM3's piece layout, nearly a token a character.

Read next: `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

_BASE_PIECES = 3 + 256 + 1
"""`<unk> <s> </s>`, the byte pieces, and the blank that stands before every text."""


def train(texts: Iterable[str], folder: Path, *, num_merges: int) -> None:
    """Train a BPE model on `texts` and write `tokenizer.model` and `tokenizer_config.json`.

    Few merges keep an unknown name spelt in characters that the model knows; those few go to the
    phrases of instructions.

    Args:
        texts: Lines without line breaks.
        folder: Where the files go.
        num_merges: Number of pieces of more than one character.
    """
    lines = list(texts)
    num_characters = len(set("".join(lines)) - {" "})
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=_BASE_PIECES + num_characters + num_merges,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        max_sentencepiece_length=4,
        shuffle_input_sentence=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    config = {
        "name_or_path": "raytune-glm/tiny-chatglm3",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
