"""Rows as token ids and labels, one split at a time, into an Arrow file.

Which token carries loss, and how an overlong row is cut, is the model family's knowledge
(`Family.encode`). Read next: `store`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.data.reading import Row
from raytune_glm.data.settings import DataConfig, Split
from raytune_glm.errors import DataError
from raytune_glm.models.family import IGNORED_LABEL, Encoded, Family

if TYPE_CHECKING:
    from datasets import Features
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class SplitStats:
    """What encoding did to a split, in rows and tokens."""

    rows_read: int
    rows_kept: int
    rows_truncated: int
    """Rows kept of which some tokens were cut off."""
    rows_skipped: int
    """Training rows left out because they are too long (`data.overlong: skip`)."""
    rows_without_labels: int
    """Rows without a token that carries loss: left out of `train`; kept in `dev` and `test`, where
    they count for generated answers but not for the loss."""
    tokens: int
    labels: int
    """Tokens that carry loss."""
    longest: int
    """Length of the longest row kept, in tokens."""


class SplitEncoder:
    """Encodes one split and counts what it does.

    Args:
        config: The `data` section.
        split: Which split; only training rows are left out, and only the others get a prompt.
        family: Says how a row becomes tokens.
        tokenizer: The family's tokenizer.
    """

    def __init__(
        self,
        *,
        config: DataConfig,
        split: Split,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._config = config
        self._training = split == "train"
        self._split = split
        self._family = family
        self._tokenizer = tokenizer
        self._counts = dict.fromkeys(SplitStats.__dataclass_fields__, 0)

    def write(self, rows: list[Row], path: Path) -> SplitStats:
        """Encode rows into an Arrow file, a few hundred at a time.

        Args:
            rows: The split's rows, at least one.
            path: The file to make.

        Returns:
            What was done to the rows.

        Raises:
            DataError: A row cannot be encoded, or no row is left that carries loss.
        """
        from datasets import Dataset

        def encode(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            encoded = [self._encode(rows[index]) for index in batch["index"]]
            kept = [columns for columns in encoded if columns is not None]
            return {name: [columns[name] for columns in kept] for name in features}

        features = _features(training=self._training)
        with _without_progress_bars():
            Dataset.from_dict({"index": range(len(rows))}).map(
                encode,
                batched=True,
                batch_size=256,
                remove_columns=["index"],
                features=features,
                cache_file_name=str(path),
                load_from_cache_file=False,
                # Given, or `datasets` would pickle the tokenizer to work one out.
                new_fingerprint=path.stem,
            )
        stats = self._stats(rows)
        self._refuse_useless(stats)
        return stats

    def measure(self, rows: Sequence[Row]) -> SplitStats:
        """Encode rows and keep nothing of them but the counts.

        Raises:
            DataError: A row cannot be encoded.
        """
        for row in rows:
            self._encode(row)
        return self._stats(rows)

    def _stats(self, rows: Sequence[Row]) -> SplitStats:
        return SplitStats(**self._counts | {"rows_read": len(rows)})

    def _encode(self, row: Row) -> dict[str, Any] | None:
        """Encode one row into its columns; None where it is to be left out."""
        encoded = self._encode_tokens(row)
        if self._training and encoded.truncated and self._config.overlong == "skip":
            self._counts["rows_skipped"] += 1
            return None
        labels = encoded.labels
        if self._training and self._config.train_on_source:
            labels = encoded.input_ids
        # The first token is never predicted, so its label never counts.
        num_labels = sum(label != IGNORED_LABEL for label in labels[1:])
        if not num_labels:
            self._counts["rows_without_labels"] += 1
            if self._training:
                return None
        self._count(encoded, num_labels)
        columns = {
            "input_ids": encoded.input_ids,
            "labels": labels,
            "length": len(encoded.input_ids),
            "num_labels": num_labels,
            "source": f"{row.file}, line {row.line}",
        }
        if not self._training:
            columns["prompt_ids"] = self._family.encode_prompt(
                self._tokenizer,
                row.messages[:-1],
                max_source_length=self._config.max_source_length,
            )
            columns["references"] = list(row.references)
        return columns

    def _encode_tokens(self, row: Row) -> Encoded:
        try:
            encoded = self._family.encode(
                self._tokenizer,
                row.messages,
                max_length=self._config.max_length,
                max_source_length=self._config.max_source_length,
            )
        except DataError as error:
            raise DataError(f"{row.file}, line {row.line}: {error}") from error
        assert len(encoded.input_ids) == len(encoded.labels), "a label for every token"
        if len(encoded.input_ids) > self._config.max_length:
            raise DataError(
                f"{row.file}, line {row.line}: `max_source_length` must leave room for the special "
                f"tokens, but with max_source_length={self._config.max_source_length} the row has "
                f"{len(encoded.input_ids)} tokens and max_length={self._config.max_length}; lower "
                "the first or raise the second"
            )
        return encoded

    def _count(self, encoded: Encoded, num_labels: int) -> None:
        counts = self._counts
        counts["rows_kept"] += 1
        counts["rows_truncated"] += encoded.truncated
        counts["tokens"] += len(encoded.input_ids)
        counts["labels"] += num_labels
        counts["longest"] = max(counts["longest"], len(encoded.input_ids))

    def _refuse_useless(self, stats: SplitStats) -> None:
        """Raise if nothing is left to train or evaluate on."""
        if stats.labels:
            return
        limits = (
            f"max_length={self._config.max_length} and "
            f"max_source_length={self._config.max_source_length}"
        )
        if stats.rows_skipped:
            raise DataError(
                f"`data.{self._split}` must have a row that is short enough, but all of its "
                f"{stats.rows_read} rows are too long for {limits}; raise them, or set "
                "`data.overlong: truncate`"
            )
        raise DataError(
            f"`data.{self._split}` must have a row with answer tokens, but none of its "
            f"{stats.rows_read} rows has one with {limits}; raise `max_length` or lower "
            "`max_source_length`"
        )


def _features(*, training: bool) -> Features:
    from datasets import Features, List, Value

    tokens = List(Value("int32"))
    columns = {
        "input_ids": tokens,
        "labels": tokens,
        "length": Value("int32"),
        "num_labels": Value("int32"),
        "source": Value("string"),
    }
    if not training:
        columns |= {"prompt_ids": tokens, "references": List(Value("string"))}
    return Features(columns)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    import datasets

    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
