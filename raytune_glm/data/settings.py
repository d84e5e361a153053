"""The `data` section of a sweep file: which rows, how many, and how long. Read next: `reading`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Sources = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple),
]
"""One place or a list of places that rows are read from, in this order. A place is a file (`.json`,
`.jsonl`, either with `.gz`), a folder of such files (read in the order of their names), or a data
set on the Hugging Face hub: `hub:owner/name`, `hub:owner/name/subset`, `hub:owner/name:split`."""

Split = Literal["train", "dev", "test", "retain"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test", "retain")


class DataConfig(BaseModel):
    """The rows of a sweep. All trials with equal settings here share one encoded copy on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Sources
    """Where the training rows are. Relative paths start at the working directory."""

    dev: Sources | None = None
    """Where the rows are that trials are compared on; see `dev_rows` where there are none."""

    test: Sources | None = None
    """Where the rows are that only the winner is scored on, once."""

    retain: Sources | None = None
    """Where the rows are, general ones and none of the task, that a trial should not forget: each
    evaluation measures `forgetting` on them, the rise of their loss over the untrained base's."""

    dev_rows: int = Field(default=0, ge=0)
    """Rows drawn out of `train` to be the dev rows when `dev` is not given; 0 draws none."""

    split_seed: int = Field(default=0, ge=0)
    """Seed of that draw. It is not the trial's seed: all trials are compared on the same rows."""

    max_train_rows: int | None = Field(default=None, ge=1)
    """Train on the first so many rows, counted after the dev rows are drawn; all if not given."""

    max_dev_rows: int | None = Field(default=None, ge=1)
    """Evaluate on the first so many dev rows; all if not given."""

    max_test_rows: int | None = Field(default=None, ge=1)
    """Score the winner on the first so many test rows; all if not given."""

    max_retain_rows: int | None = Field(default=None, ge=1)
    """Measure `forgetting` on the first so many rows of `retain`; all if not given."""

    max_length: int = Field(default=1560, ge=8)
    """Longest row in tokens, answer and special tokens included. Default: the published commands of
    ChatGLM-Finetuning (README at a137ad63). A shorter row costs no more than its own length."""

    max_source_length: int = Field(default=1024, ge=4)
    """Longest source (instruction and input with their template) in tokens; below `max_length`.
    Default from the same place."""

    overlong: Literal["truncate", "skip"] = "truncate"
    """What happens to a training row that is too long: `truncate` cuts source and answer by the
    model family's rule; `skip` leaves the row out. Dev and test rows are always cut and never left
    out, so that scores are over the same rows whatever the lengths."""

    train_on_source: bool = False
    """Take the loss on the source's tokens as well as the answer's, in training rows only
    (Alpaca-LoRA's `train_on_inputs`). Dev and test losses are on the answer alone, always, so that
    trials compare."""

    @model_validator(mode="after")
    def _check_lengths(self) -> DataConfig:
        if self.max_source_length >= self.max_length:
            raise ValueError(
                "`max_source_length` must be below `max_length`, to leave room for the answer, but "
                f"got max_source_length={self.max_source_length} and max_length={self.max_length}; "
                "lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _check_splits(self) -> DataConfig:
        if self.dev is not None and self.dev_rows:
            raise ValueError(
                "`dev_rows` draws dev rows out of `train` and must be 0 where `dev` is given, but "
                f"got dev_rows={self.dev_rows} and dev={list(self.dev)}; unset one by "
                "data.dev=null or data.dev_rows=0"
            )
        if self.max_dev_rows is not None and self.dev is None and not self.dev_rows:
            raise ValueError(
                "`max_dev_rows` must not be set where there are no dev rows, but got "
                f"max_dev_rows={self.max_dev_rows}; give `dev` or `dev_rows`, or remove it"
            )
        if self.max_test_rows is not None and self.test is None:
            raise ValueError(
                "`max_test_rows` must not be set where there are no test rows, but got "
                f"max_test_rows={self.max_test_rows}; give `test` or remove it"
            )
        if self.max_retain_rows is not None and self.retain is None:
            raise ValueError(
                "`max_retain_rows` must not be set where there are no rows to retain, but got "
                f"max_retain_rows={self.max_retain_rows}; give `retain` or remove it"
            )
        if self.retain is not None and self.dev is None and not self.dev_rows:
            raise ValueError(
                "`retain` must have dev rows beside it, since what the best evaluation on them has "
                f"forgotten is what counts, but got retain={list(self.retain)}; give `dev` or "
                "`dev_rows`"
            )
        return self
