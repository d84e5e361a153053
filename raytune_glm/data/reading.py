"""From the places that `DataConfig` names to rows: every row is checked before anything starts.

Light on purpose: neither `datasets` nor torch is imported (but for data sets on the hub), so that
a few megabytes are checked in well under a second. Read next: `encoding`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from raytune_glm.data.formats import FormatError, describe, find_format, unread_fields
from raytune_glm.data.places import hub_records, is_hub, local_files, parse_hub, split_places
from raytune_glm.data.records import Fault, Record, read_records, refuse
from raytune_glm.data.settings import SPLITS, DataConfig, Split
from raytune_glm.errors import DataError
from raytune_glm.models.family import Message


@dataclass(frozen=True, kw_only=True)
class Row:
    """A conversation that ends with an answer, and where it was read."""

    messages: tuple[Message, ...]
    """The turns; the last one is the assistant's answer, the first of `references`."""

    references: tuple[str, ...]
    """The answers that count as right, at least one."""

    file: str
    """The file as the configuration named it, or `hub:owner/name`."""

    line: int
    """Line in `file` on which the row starts, from 1; the row's number where it is from the hub."""


def read_splits(config: DataConfig) -> dict[Split, list[Row]]:
    """Read the rows of all splits that the configuration names, held-out dev rows among them.

    Args:
        config: The `data` section.

    Returns:
        The rows by split, in the order of the files, cut to the `max_*_rows`. No list is empty.

    Raises:
        DataError: A place does not exist, or a row cannot be used; all faults in one message.
    """
    return _divide(_read(config, with_hub=True), config)


def check_files(config: DataConfig) -> dict[Split, int]:
    """Check every row of every local file; nothing is encoded or fetched.

    Args:
        config: The `data` section.

    Returns:
        How many rows each split will have, before `overlong` ones are left out. A split that has a
        place on the hub is not in it: only the form of the place's name is checked.

    Raises:
        DataError: As `read_splits`.
    """
    return dict(survey_files(config).rows)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What there is in the local files."""

    rows: Mapping[Split, int]
    """Rows of each split; see `check_files`."""
    references: Mapping[Split, tuple[tuple[str, ...], ...]]
    """Right answers of each row of the held-out splits that are on this machine."""
    remarks: tuple[str, ...]
    """What is no fault, and what the user may not have meant."""


def survey_files(config: DataConfig) -> Survey:
    """Check the local files as `check_files` does, and remark what looks unmeant.

    Raises:
        DataError: As `read_splits`.
    """
    unread: Counter[tuple[Split, str]] = Counter()
    rows = _read(config, with_hub=False, unread=unread)
    for split, places in split_places(config).items():
        if any(map(is_hub, places)):
            del rows[split]
    divided = _divide(rows, config)
    remarks = [
        f"{count} row(s) of data.{split} have the field `{field}`, which the format of these rows "
        "does not have: it is left aside (docs/data.md)"
        for (split, field), count in unread.items()
    ]
    return Survey(
        rows={split: len(found) for split, found in divided.items()},
        references={
            split: tuple(row.references for row in found)
            for split, found in divided.items()
            if split != "train"
        },
        remarks=(*remarks, *_remark_empty_answers(divided), *_remark_shared_rows(divided)),
    )


def _remark_empty_answers(rows: Mapping[Split, list[Row]]) -> Iterator[str]:
    for split, found in rows.items():
        empty = [row for row in found if not row.references[0].strip()]
        if empty:
            first = f"{empty[0].file}, line {empty[0].line}"
            yield (
                f"{len(empty)} of the {len(found)} rows of data.{split} have an empty answer, the "
                f"first one in {first}: they teach the model to say nothing"
            )


def _remark_shared_rows(rows: Mapping[Split, list[Row]]) -> Iterator[str]:
    """Held-out rows that are trained on tell nothing."""
    trained = {row.messages for row in rows.get("train", ())}
    for split in SPLITS[1:]:
        held_out = rows.get(split, ())
        shared = sum(row.messages in trained for row in held_out)
        if shared:
            yield (
                f"{shared} of the {len(held_out)} rows of data.{split} stand in data.train, too: "
                "scores on them say what was learnt by heart"
            )


def _read(
    config: DataConfig, *, with_hub: bool, unread: Counter[tuple[Split, str]] | None = None
) -> dict[Split, list[Row]]:
    """Read the rows of all places; in `unread`, count fields that a row's format does not read."""
    faults: list[Fault] = []
    rows: dict[Split, list[Row]] = {}
    for split, places in split_places(config).items():
        rows[split] = []
        fields: list[str] = []
        for place in places:
            if not is_hub(place):
                for file in local_files(place, faults):
                    rows[split] += _rows(read_records(file, faults), str(file), faults, fields)
            elif (hub := parse_hub(place, split, faults)) and with_hub:
                rows[split] += _rows(hub_records(hub), place, faults, fields)
        if unread is not None:
            unread.update((split, field) for field in fields)
    refuse(faults)
    return rows


def _rows(
    records: Iterable[Record], file: str, faults: list[Fault], unread: list[str]
) -> Iterator[Row]:
    """Turn records into rows; what is wrong with one becomes a fault."""
    num_faults, empty = len(faults), True
    for record in records:
        empty = False
        try:
            if not isinstance(record.value, dict):
                raise FormatError(f"the row must be an object, but is {describe(record.value)}")
            known = find_format(record.value)
            examples = list(known.read(record.value))
        except FormatError as error:
            faults.append(Fault(file=file, line=record.line, problem=str(error)))
            continue
        unread += unread_fields(record.value, known)
        for example in examples:
            answer = Message(role="assistant", parts=example.answers[:1])
            yield Row(
                messages=(*example.prompt, answer),
                references=example.answers,
                file=file,
                line=record.line,
            )
    if empty and len(faults) == num_faults:
        faults.append(Fault(file=file, problem="there is no row in it; it must hold at least one"))


def _divide(rows: dict[Split, list[Row]], config: DataConfig) -> dict[Split, list[Row]]:
    """Draw the dev rows out of the training rows, then cut each split to its `max_*_rows`."""
    if config.dev_rows and "train" in rows:
        train = rows["train"]
        if config.dev_rows >= len(train):
            raise DataError(
                "`data.dev_rows` must leave at least one training row, but got "
                f"dev_rows={config.dev_rows} and {len(train)} rows in `data.train`; lower it"
            )
        drawn = set(random.Random(config.split_seed).sample(range(len(train)), config.dev_rows))
        rows = rows | {
            "train": [row for index, row in enumerate(train) if index not in drawn],
            "dev": [row for index, row in enumerate(train) if index in drawn],
        }
    limits = {split: getattr(config, f"max_{split}_rows") for split in SPLITS}
    return {split: rows[split][: limits[split]] for split in SPLITS if split in rows}
