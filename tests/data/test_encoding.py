"""Encoding: rows on disk are the published ones, made once; what is left out is counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from raytune_glm.data import DataConfig, encode_splits, load_encoded
from raytune_glm.errors import DataError
from raytune_glm.models.family import Encoded, Family, Message, ModelShape

END = 1


class Words(Family):
    """A family small enough to work out by hand: source words, answer words, an end token."""

    name = "words"

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        return False

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        raise NotImplementedError

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        source = tokenizer.encode(" ".join(turn.content for turn in messages[:-1]))
        answer = [*tokenizer.encode(messages[-1].content), END]
        kept = source[:max_source_length]
        budget = max_length - len(kept)
        return Encoded(
            input_ids=kept + answer[:budget],
            labels=[-100] * len(kept) + answer[:budget],
            truncated=len(source) > max_source_length or len(answer) > budget,
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        return tokenizer.encode(" ".join(turn.content for turn in messages))[:max_source_length]

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        return [END]


class WordsThatMustNotBeAsked(Words):
    def encode(self, *args: Any, **kwargs: Any) -> Encoded:
        raise AssertionError("the rows were encoded a second time")


def word_tokenizer(words: str = "a b c d e f g h") -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def write_rows(path: Path, *pairs: tuple[str, str | list[str]]) -> str:
    rows = [{"instruction": source, "output": answer} for source, answer in pairs]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    return write_rows(tmp_path / "train.jsonl", ("a b", "c"), ("a b c d e", "f"), ("h", ""))


def encode(config: DataConfig, tmp_path: Path, **changes: Any) -> Any:
    arguments = {"family": Words(), "tokenizer": word_tokenizer(), "cache_dir": tmp_path / "cache"}
    return encode_splits(config, **arguments | changes)


def config_of(train: str, **settings: Any) -> DataConfig:
    return DataConfig(**{"train": train, "max_length": 8, "max_source_length": 4} | settings)


def test_training_rows_have_tokens_labels_and_counts(train: str, tmp_path: Path) -> None:
    encoded = encode(config_of(train), tmp_path)

    assert encoded.train.to_list() == [
        {
            "input_ids": [2, 3, 4, 1],
            "labels": [-100, -100, 4, 1],
            "length": 4,
            "num_labels": 2,
            "source": f"{train}, line 1",
        },
        {
            "input_ids": [2, 3, 4, 5, 7, 1],
            "labels": [-100, -100, -100, -100, 7, 1],
            "length": 6,
            "num_labels": 2,
            "source": f"{train}, line 2",
        },
        {
            "input_ids": [9, 1],
            "labels": [-100, 1],
            "length": 2,
            "num_labels": 1,
            "source": f"{train}, line 3",
        },
    ]
    assert encoded.dev is None
    stats = encoded.stats["train"]
    assert (stats.rows_read, stats.rows_kept, stats.rows_truncated) == (3, 3, 1)
    assert (stats.tokens, stats.labels, stats.longest) == (12, 5, 6)


def test_dev_rows_have_prompts_and_all_references_and_are_never_left_out(
    train: str, tmp_path: Path
) -> None:
    dev = write_rows(tmp_path / "dev.jsonl", ("a b c d e f g", ["c", "d e"]), ("b", "h"))
    encoded = encode(config_of(train, dev=dev, overlong="skip"), tmp_path)

    assert len(encoded.train) == 2
    assert encoded.dev["prompt_ids"][:] == [[2, 3, 4, 5], [3]]
    assert encoded.dev["references"][:] == [["c", "d e"], ["h"]]
    assert encoded.dev["input_ids"][:] == [[2, 3, 4, 5, 4, 1], [3, 9, 1]]


def test_skipped_rows_are_counted_and_told(
    train: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="raytune_glm"):
        encoded = encode(config_of(train, overlong="skip"), tmp_path)

    stats = encoded.stats["train"]
    assert (stats.rows_read, stats.rows_kept, stats.rows_skipped) == (3, 2, 1)
    assert "train: 2 of 3 rows" in caplog.text
    assert "1 left out as too long" in caplog.text


def test_loss_on_the_source_is_for_training_rows_only(train: str, tmp_path: Path) -> None:
    encoded = encode(config_of(train, dev=train, train_on_source=True), tmp_path)

    assert encoded.train[0]["labels"] == [2, 3, 4, 1]
    assert encoded.train[0]["num_labels"] == 3  # nothing predicts the first token
    assert encoded.dev[0]["labels"] == [-100, -100, 4, 1]


def test_a_row_without_a_label_is_left_out_of_training_and_kept_for_generation(
    train: str, tmp_path: Path
) -> None:
    # Nothing stands before this answer, so its one token, the end, is never predicted.
    odd = write_rows(tmp_path / "odd.jsonl", ("", ""), ("a", "b"))
    encoded = encode(config_of(odd, dev=odd), tmp_path)

    assert encoded.train["input_ids"][:] == [[2, 3, 1]]
    assert encoded.dev["num_labels"][:] == [0, 2]
    assert [encoded.stats[split].rows_without_labels for split in ("train", "dev")] == [1, 1]


def test_a_second_call_opens_what_the_first_one_made(train: str, tmp_path: Path) -> None:
    config = config_of(train, dev=train)
    first = encode(config, tmp_path)
    again = encode(config, tmp_path, family=WordsThatMustNotBeAsked())
    opened = load_encoded(first.folder)

    assert again.folder == first.folder
    assert again.stats == opened.stats == first.stats
    assert again.dev.to_list() == opened.dev.to_list() == first.dev.to_list()
    assert opened.train.cache_files, "the rows are memory-mapped, not in memory"
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "dev.arrow",
        "stats.json",
        "train.arrow",
    ]


def test_what_the_rows_depend_on_makes_a_new_folder_and_nothing_else_does(
    train: str, tmp_path: Path
) -> None:
    padded = word_tokenizer()
    padded.padding_side = "left"
    padded(["a", "a b"], padding=True, truncation=True, max_length=3)
    saved = tmp_path / "tokenizer"
    word_tokenizer().save_pretrained(saved)
    moved = write_rows(tmp_path / "moved.jsonl", ("a b", "c"), ("a b c d e", "f"), ("h", ""))
    changed = write_rows(tmp_path / "changed.jsonl", ("a b", "d"), ("a b c d e", "f"), ("h", ""))

    def folder(config: DataConfig, **changes: Any) -> str:
        return encode(config, tmp_path, **changes).folder.name

    base = folder(config_of(train))
    same = [
        folder(config_of(moved)),
        folder(config_of(train), tokenizer=padded),
        folder(config_of(train), tokenizer=PreTrainedTokenizerFast.from_pretrained(saved)),
    ]
    new = [
        folder(config_of(changed)),
        folder(config_of(train, max_length=9)),
        folder(config_of(train, dev=train)),
        folder(config_of(train, train_on_source=True)),
        folder(config_of(train), tokenizer=word_tokenizer("b a c d e f g h")),
    ]

    assert same == [base] * 3
    assert len({base, *new}) == 6


@pytest.mark.parametrize(
    ("pairs", "settings", "problem"),
    [
        (
            [("a b c d e", "f"), ("b c d e f", "g")],
            {"overlong": "skip"},
            r"all of its 2 rows are too long for max_length=8 and max_source_length=4; raise them, "
            r"or set `data\.overlong: truncate`",
        ),
        ([("", ""), ("", "")], {}, r"`data\.train` must have a row with answer tokens, but none"),
    ],
)
def test_a_split_with_nothing_to_train_on_is_refused_and_leaves_no_folder(
    tmp_path: Path, pairs: list[tuple[str, str]], settings: dict[str, Any], problem: str
) -> None:
    path = write_rows(tmp_path / "useless.jsonl", *pairs)

    with pytest.raises(DataError, match=problem):
        encode(config_of(path, **settings), tmp_path)
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_a_row_that_the_family_refuses_is_told_with_its_line(train: str, tmp_path: Path) -> None:
    class Refusing(Words):
        def encode(self, *args: Any, **kwargs: Any) -> Encoded:
            raise DataError("the answer must not be a haiku")

    with pytest.raises(DataError, match=r"train\.jsonl, line 1: the answer must not be a haiku"):
        encode(config_of(train), tmp_path, family=Refusing())


def test_a_row_that_the_limits_leave_no_room_for_is_told(train: str, tmp_path: Path) -> None:
    class Wordy(Words):
        def encode(self, *args: Any, **kwargs: Any) -> Encoded:
            return Encoded(input_ids=[2] * 9, labels=[2] * 9, truncated=True)

    with pytest.raises(DataError, match="the row has 9 tokens and max_length=8; lower the first"):
        encode(config_of(train), tmp_path, family=Wordy())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
@pytest.mark.parametrize("run", [0, 1, 2])
def test_rows_on_disk_are_those_of_the_published_training_code(
    shared: Path, tmp_path: Path, name: str, run: int
) -> None:
    from raytune_glm.models import FAMILIES, load_tokenizer

    folder = shared / "oracle" / name
    expected = json.loads((folder / "features_cases.json").read_text(encoding="utf-8"))["runs"][run]
    config = DataConfig(
        train=str(folder / "features_input.jsonl"),
        max_length=expected["max_len"],
        max_source_length=expected["max_src_len"],
        overlong="skip" if expected["is_skip"] else "truncate",
    )
    encoded = encode_splits(
        config, family=FAMILIES[name], tokenizer=load_tokenizer(folder), cache_dir=tmp_path
    )

    rows = [
        {"input_ids": row["input_ids"], "labels": row["labels"]} for row in encoded.train.to_list()
    ]
    assert rows == expected["features"]
    stats = encoded.stats["train"]
    assert (stats.rows_kept, stats.rows_skipped) == (expected["count"], 26 - expected["count"])
