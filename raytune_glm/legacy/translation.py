"""From an old command to the text of a run file, each line with the flag that it comes from.

Read next: `raytune_glm.train`, which prints, keeps and runs it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raytune_glm.legacy.command import Words, choose_tool, read_values, split_words
from raytune_glm.legacy.launchers import LAUNCHER_FLAGS, refuse_launcher
from raytune_glm.legacy.table import Flag, Given, Setting, Tool

_SECTIONS = ("model", "data", "method", "train", "deepspeed", "search", "run")


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What an old command became."""

    text: str
    """A run file, YAML with comments."""
    overrides: tuple[str, ...]
    """Settings that stood behind the flags."""
    only_check: bool


def translate_command(
    words: Sequence[str],
    tools: Sequence[Tool],
    *,
    environment: Mapping[str, str] | None = None,
) -> Translation:
    """Turn an old command into a run file.

    Args:
        words: The command's words behind the script's name.
        tools: The replaced tools.
        environment: Environment variables; this process's by default.

    Raises:
        ConfigError: A flag is unknown or cannot be honoured; all of them in one message.
    """
    environment = os.environ if environment is None else environment
    refuse_launcher(environment)
    split = split_words(words)
    tool = choose_tool(split.flags, tools)
    given = Given(
        script=tool.script,
        flags={**LAUNCHER_FLAGS, **tool.flags},
        written=read_values(split, tool),
        environment=environment,
    )
    settings = [*tool.fixed, *_plain(given), *tool.combine(given)]
    return Translation(
        text=_head(split, tool, given) + _body(settings),
        overrides=split.overrides,
        only_check=split.only_check,
    )


def _plain(given: Given) -> list[Setting]:
    """The settings that one flag becomes as it is."""
    return [
        Setting(path=flag.to, value=given[name], source=_source(given, name, flag))
        for name, flag in given.flags.items()
        if flag.to is not None and given.counts(name) and given[name] is not None
    ]


def _source(given: Given, name: str, flag: Flag) -> str:
    return given.source(name) + (f"; {flag.note}" if flag.note else "")


def _head(words: Words, tool: Tool, given: Given) -> str:
    """What the command was, and what of it has no line below."""
    flags = " ".join(
        f"--{name}" if text is None else f"--{name} {shlex.quote(text)}"
        for name, text in words.flags.items()
    )
    lines = [f"{tool.script} {flags}".replace("\n", " ")]
    for name in given.written:
        flag = given.flags[name]
        if flag.aside:
            lines.append(f"--{name} is left aside: {flag.aside}")
        elif not given.counts(name) and flag.when is not None:
            other, wanted = flag.when
            lines.append(f"--{name} is left aside: it counts only with --{other} {wanted}")
    return "".join(f"# {line}\n" for line in [f"Translated from a command of {tool.name}:", *lines])


def _body(settings: Iterable[Setting]) -> str:
    """The settings by section; of two for one path the later one counts."""
    by_path = {setting.path: setting for setting in settings}
    text = ""
    for section in _SECTIONS:
        lines = [
            f"  {path.partition('.')[2]}: {_inline(setting.value)}  # {setting.source}\n"
            for path, setting in by_path.items()
            if path.startswith(f"{section}.")
        ]
        text += f"{section}:\n{''.join(lines)}" if lines else ""
    return text


def _inline(value: Any) -> str:
    """A value in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()
