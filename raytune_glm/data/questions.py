"""Rows to be answered: any row format, with the right answers or without. Read next: `formats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_glm.data.formats import FORMATS, Example, FormatError, describe, find_format
from raytune_glm.data.places import local_files
from raytune_glm.data.records import Fault, read_records, refuse
from raytune_glm.models.family import Message


@dataclass(frozen=True, kw_only=True)
class Question:
    """A conversation up to where the assistant speaks, and the row that it was read from."""

    messages: tuple[Message, ...]
    references: tuple[str, ...]
    """The answers that count as right; none where the row has none."""
    record: Mapping[str, Any]
    """The row's own fields."""
    file: str
    line: int
    """Line in `file` on which the row starts, from 1."""


def read_questions(place: str) -> list[Question]:
    """Read the rows of a file, or of all files of a folder, in their order.

    A row whose answer is missing or null, or whose conversation ends with the user, has no
    references; an empty text is an answer like any other.

    Raises:
        DataError: There is no such file, or a row cannot be used; all faults in one message.
    """
    faults: list[Fault] = []
    questions: list[Question] = []
    for file in local_files(place, faults):
        before = len(questions) + len(faults)
        for record in read_records(file, faults):
            try:
                if not isinstance(record.value, dict):
                    raise FormatError(f"the row must be an object, but is {describe(record.value)}")
                questions += (
                    Question(
                        messages=example.prompt,
                        references=references,
                        record=record.value,
                        file=str(file),
                        line=record.line,
                    )
                    for example, references in _asked(record.value)
                )
            except FormatError as error:
                faults.append(Fault(file=str(file), line=record.line, problem=str(error)))
        if len(questions) + len(faults) == before:
            faults.append(Fault(file=str(file), problem="there is no row in it"))
    refuse(faults)
    return questions


def _asked(record: Mapping[str, Any]) -> Iterator[tuple[Example, tuple[str, ...]]]:
    """Read a row with the answers that it has, in the format that fits with one or without."""
    given = {key: value for key, value in record.items() if value is not None}
    whole = [known for known in FORMATS.values() if given.keys() >= set(known.fields)]
    touched = whole or [known for known in FORMATS.values() if given.keys() & set(known.fields)]
    filled = [
        row
        for known in touched
        if (row := known.answered(given)) is not None and row.keys() >= set(known.fields)
    ]
    if len(filled) == 1:
        for example in find_format(filled[0]).read(filled[0]):
            yield example, ()
    else:
        for example in find_format(given).read(given):
            yield example, example.answers
