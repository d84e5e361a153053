"""JSON files as records with their line numbers; what cannot be read becomes a `Fault`.

Two layouts, told apart by content and not by name: an array of rows, and one row a line. UTF-8,
with or without a byte order mark, or that compressed with gzip. Read next: `formats`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm.errors import DataError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
"""Names of data files end in one of these."""

SHOWN_FAULTS = 10
"""A message lists so many faults and counts the rest."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong in a data file."""

    file: str
    problem: str
    line: int | None = None
    """Line in the file, from 1; None where the fault is the whole file's."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}: {self.problem}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One JSON value and the line on which it starts."""

    line: int
    value: Any


def refuse(faults: list[Fault]) -> None:
    """Raise if there are faults.

    Args:
        faults: What was found; a fault found twice (a file named twice) is told once.

    Raises:
        DataError: There is a fault. One line for each kind in a file, the first `SHOWN_FAULTS`.
    """
    if not faults:
        return
    alike: dict[tuple[str, str], list[Fault]] = {}
    for fault in dict.fromkeys(faults):
        alike.setdefault((fault.file, fault.problem), []).append(fault)
    lines = [_told(found) for found in alike.values()]
    if len(lines) > SHOWN_FAULTS:
        lines = [*lines[:SHOWN_FAULTS], f"... and {len(lines) - SHOWN_FAULTS} more like these"]
    raise DataError("\n".join(lines))


def _told(alike: list[Fault]) -> str:
    """Word one fault of several lines of a file."""
    first, more = alike[0], len(alike) - 1
    if not more:
        return str(first)
    lines = "line" if more == 1 else "lines"
    return f"{first.file}, line {first.line} and {more} more {lines}: {first.problem}"


def read_records(path: Path, faults: list[Fault]) -> Iterator[Record]:
    """Read the records of a file, in order.

    Args:
        path: A data file.
        faults: What cannot be read is added here; reading goes on behind it where that makes sense.

    Yields:
        The records that can be read.
    """
    text = _read_text(path, faults)
    if text is None:
        return
    start = text.lstrip()[:1]
    if not start:
        faults.append(Fault(file=str(path), problem="the file is empty; it must hold rows"))
    elif start == "[":
        yield from _read_array(text, str(path), faults)
    else:
        yield from _read_lines(text, str(path), faults)


def _read_text(path: Path, faults: list[Fault]) -> str | None:
    def fault(problem: str, line: int | None = None) -> None:
        faults.append(Fault(file=str(path), problem=problem, line=line))

    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        fault(f"the file must be whole gzip data, but reading fails: {error}")
    except UnicodeDecodeError as error:
        fault(
            f"the file must be UTF-8, but byte 0x{content[error.start]:02x} is not; convert it",
            line=content.count(b"\n", 0, error.start) + 1,
        )
    except OSError as error:
        fault(f"the file cannot be read: {error.strerror}")
    return None


def _read_lines(text: str, file: str, faults: list[Fault]) -> Iterator[Record]:
    # Not splitlines(): it also cuts at characters such as U+2028, which JSON allows inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if _is_one_value(text):
                faults.append(
                    Fault(
                        file=file,
                        line=number,
                        problem="the file holds one object over several lines; rows must be "
                        "an array `[{...}, {...}]`, or one object on each line",
                    )
                )
                return
            faults.append(Fault(file=file, line=number, problem=_syntax(error)))
        else:
            yield Record(line=number, value=value)


def _is_one_value(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def _syntax(error: json.JSONDecodeError) -> str:
    return f"broken JSON at column {error.colno}: {error.msg}"


def _read_array(text: str, file: str, faults: list[Fault]) -> Iterator[Record]:
    """Read an array one element at a time, because `json.loads` forgets where each one started."""
    decoder = json.JSONDecoder()
    position = _after_blanks(text, text.index("[") + 1)
    line, counted = 1, 0
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            problem = _syntax(error)
            if position >= len(text):
                problem = "the file ends inside the array; it seems to be cut off"
            faults.append(Fault(file=file, line=error.lineno, problem=problem))
            return
        yield Record(line=line, value=value)
        position = _after_blanks(text, position)
        if text.startswith(",", position):
            position = _after_blanks(text, position + 1)
        elif not text.startswith("]", position):
            found = text.count("\n", 0, position) + 1
            problem = "broken JSON: a comma or the closing `]` must follow a row of the array"
            faults.append(Fault(file=file, line=found, problem=problem))
            return
    if text[position + 1 :].strip():
        end = text.count("\n", 0, position) + 1
        problem = "there must be nothing behind the array's closing `]`, but there is more text"
        faults.append(Fault(file=file, line=end, problem=problem))


def _after_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
