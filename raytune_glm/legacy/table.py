"""What the table of a replaced tool is made of: its flags, and what each one becomes.

A flag is translated (`to`, or `combined` by the tool's `combine`), left aside because nothing is
lost without it (`aside`), or refused (`refused`). Read next: `command`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raytune_glm.errors import ConfigError


def boolean(text: str) -> bool:
    """Read a truth value as people write it; the old tools' `type=bool` took any text for true.

    Raises:
        ValueError: It is none.
    """
    truths = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in truths:
        raise ValueError(f"must be true or false, but got {text!r}")
    return truths[text.lower()]


def names(text: str) -> list[str]:
    """Read names between commas, in brackets or not: `a,b`, `[a,b]`, `['a', 'b']`."""
    parts = (part.strip().strip("'\"") for part in text.strip().strip("[]").split(","))
    return [part for part in parts if part]


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of an old command."""

    read: Callable[[str], Any] = str
    """Reads its text; raises ValueError."""
    default: Any = None
    """What the old tool took where the flag was not given; None: nothing."""
    bare: Any = None
    """What the flag alone, without a value behind it, means; None: it must have one."""
    to: str | None = None
    """The setting that it becomes as it is."""
    combined: str = ""
    """The settings that it becomes together with other flags, or under other values."""
    when: tuple[str, str] | None = None
    """It counts only where this other flag has this value."""
    note: str = ""
    """What is different from the old tool, for the line in the run file."""
    aside: str = ""
    """Why it has nothing to become, and nothing is lost."""
    refused: str = ""
    """Why it cannot be honoured, and what to do instead."""
    harmless: tuple[Any, ...] = ()
    """Values of a refused flag that ask for nothing."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A line of the run file."""

    path: str
    """`section.key`."""
    value: Any
    source: str
    """Which flag it comes from."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """The flags of one old command, those that were not given included."""

    script: str
    flags: Mapping[str, Flag]
    written: Mapping[str, Any]
    """Flag -> value, of those that were given."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the command."""

    def __getitem__(self, name: str) -> Any:
        """The value of a flag, or the old tool's default."""
        return self.written.get(name, self.flags[name].default)

    def source(self, *flags: str) -> str:
        """Say where values come from: `--max_len`, or `default of --max_len in train.py`."""
        said = [f"--{name}" for name in flags if name in self.written]
        silent = [f"--{name}" for name in flags if name not in self.written]
        default = f"default of {', '.join(silent)} in {self.script}"
        return ", ".join([*said, default] if silent else said)

    def counts(self, name: str) -> bool:
        """Whether a flag has an effect beside the others."""
        when = self.flags[name].when
        return when is None or self[when[0]] == when[1]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A replaced tool."""

    name: str
    script: str
    flags: Mapping[str, Flag]
    fixed: tuple[Setting, ...] = ()
    """What the old tool had no flag for."""
    combine: Callable[[Given], list[Setting]]
    """Settings that several flags make together."""


def required(given: Given, name: str, example: str) -> Any:
    """The value of a flag that an old command must have.

    Raises:
        ConfigError: It was not given.
    """
    if given[name] in (None, ""):
        raise ConfigError(f"--{name} must be given: {example}")
    return given[name]
