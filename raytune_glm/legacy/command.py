"""Reading the words of an old command as argparse, transformers and fire read them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.launchers import LAUNCHER_FLAGS
from raytune_glm.legacy.scripts import OTHER_SCRIPTS
from raytune_glm.legacy.table import Flag, Tool

CHECK = "--check"


def is_old_command(words: Sequence[str]) -> bool:
    """Whether a command line begins with a flag of its own instead of a run file."""
    first = next((word for word in words if word != CHECK), "")
    return first.startswith("--") and first != "--help"


@dataclass(frozen=True, kw_only=True)
class Words:
    """An old command's words, told apart."""

    flags: Mapping[str, str | None]
    """Flag without dashes -> the text behind it; none where it stands alone."""
    overrides: tuple[str, ...]
    """`key.path=value`, for what the flags cannot say."""
    only_check: bool


def split_words(words: Sequence[str]) -> Words:
    """Tell flags, their values, and settings of this project apart.

    Raises:
        ConfigError: A word is neither.
    """
    flags: dict[str, str | None] = {}
    overrides: list[str] = []
    waiting: str | None = None
    for word in words:
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            waiting = None if equals else name.replace("-", "_")
            flags[name.replace("-", "_")] = text if equals else None
        elif waiting is not None and not _is_override(word):
            flags[waiting] = word
            waiting = None
        elif _is_override(word):
            overrides.append(word)
        else:
            raise ConfigError(
                f"a flag must stand before every value, but {word!r} has none: put a value with "
                "blanks into quotes"
            )
    only_check = "check" in flags
    flags.pop("check", None)
    return Words(flags=flags, overrides=tuple(overrides), only_check=only_check)


_SECTIONS = ("model.", "data.", "method.", "train.", "deepspeed.", "search.", "run.")


def _is_override(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and key.startswith(_SECTIONS)


def choose_tool(given: Iterable[str], tools: Sequence[Tool]) -> Tool:
    """The tool that knows most of the flags.

    Raises:
        ConfigError: None of them knows any; perhaps they are another script's.
    """
    given = set(given) - set(LAUNCHER_FLAGS)
    tool = max(tools, key=lambda tool: len(given & set(tool.flags)))
    for other in OTHER_SCRIPTS:
        if len(given & other.flags) > len(given & set(tool.flags)):
            raise ConfigError(
                f"{_dashed(given & other.flags)} are flags of {other.script}, which does not "
                f"train: use {other.now}"
            )
    if not given & set(tool.flags):
        raise ConfigError(
            "a command must begin with a run file, or have the flags of "
            f"{' or '.join(f'{t.name} ({t.script})' for t in tools)}, but got {_dashed(given)}: "
            "python -m raytune_glm.train --help"
        )
    return tool


def read_values(words: Words, tool: Tool) -> dict[str, Any]:
    """Read the text behind each flag.

    Raises:
        ConfigError: Every flag that is unknown, refused or badly written, one a line.
    """
    known = {**LAUNCHER_FLAGS, **tool.flags}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, text in words.flags.items():
        flag, value = known.get(name), text
        if flag is None and name.startswith("no") and known.get(name[2:], Flag()).bare is True:
            # fire's way to say false.
            name, flag, value = name[2:], known[name[2:]], "false"
        if flag is None:
            faults.append(_unknown(name, tool, known))
            continue
        try:
            values[name] = _value(flag, value)
        except ValueError as error:
            faults.append(f"--{name}: {error}")
            continue
        if flag.refused and values[name] not in flag.harmless:
            faults.append(f"--{name} cannot be honoured: {flag.refused}")
    if faults:
        raise ConfigError("\n".join(faults))
    return values


def _value(flag: Flag, text: str | None) -> Any:
    if text is None:
        if flag.bare is None and not (flag.aside or flag.refused):
            raise ValueError("a value must stand behind it")
        return flag.bare
    return flag.read(text)


def _unknown(name: str, tool: Tool, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, cutoff=0.6)
    hint = f": did you mean --{near[0]}?" if near else ": docs/migration.md lists them all"
    return f"--{name} is no flag of {tool.name}'s {tool.script}{hint}"


def _dashed(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))
