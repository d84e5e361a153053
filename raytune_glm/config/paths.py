"""What a search space names: settings that a trial may have of its own, and variants of a section.

Read next: `corners`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from raytune_glm import space as spaces
from raytune_glm.config.faults import known_keys, known_variants
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.errors import ConfigError

_NO_TRIALS_OWN = frozenset(
    {"model.path", "model.family"}
    | {f"data.{name}" for name in ("dev", "dev_rows", "split_seed", "max_dev_rows")}
    | {f"data.{name}" for name in ("test", "max_test_rows", "retain", "max_retain_rows")}
)
"""One for all trials of a sweep, beside the section `run`: the base, and the rows that compare."""


def check_paths(sweep: SweepConfig) -> None:
    """Refuse what the search space names and no trial can have of its own.

    Raises:
        ConfigError: There is such a setting or variant; the message has the nearest that is one.
    """
    known = _searchable_paths()
    lines: list[str] = []
    for path, dimension in sweep.search.space.items():
        settings = [path]
        if isinstance(dimension, spaces.OneOf):
            settings += [f"{path}.{name}" for names in dimension.one_of.values() for name in names]
            lines += _unknown_variants(path, dimension)
        lines += [_no_such(setting, known) for setting in settings if setting not in known]
        section = path.partition(".")[0]
        if section != path and section in sweep.search.space:
            lines.append(
                f"search.space.{path}: must not stand beside search.space.{section}, which sets "
                f"the whole section: search it inside that one"
                f"{_inside(sweep.search.space, path)}, and leave this one out "
                f"(search.space.{path}=null, where a file has it)"
            )
    if lines:
        raise ConfigError("\n".join(lines))


def _inside(space: spaces.Space, path: str) -> str:
    """How to search a setting in the variant that has it, of its section's dimension."""
    section, _, name = path.partition(".")
    variants = getattr(space[section], "one_of", {})
    having = [variant for variant in variants if name in known_keys(RunConfig, [section, variant])]
    if not having:
        return ""
    tree = space[path].model_dump(mode="json", exclude_defaults=True)
    value = yaml.safe_dump(tree, default_flow_style=True, width=math.inf).strip()
    return f", as search.space.{section}.one_of.{having[0]}.{name}={value}"


def check_nulls(tree: Mapping[str, Any]) -> None:
    """Refuse a null for what is no setting, in a space as it is written: it takes nothing out.

    Args:
        tree: Section -> setting -> value, not yet held against the sections' classes.

    Raises:
        ConfigError: There is one; the message has the nearest setting.
    """
    search = tree.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    nulls = [path for path, value in space.items() if value is None] if space else []
    known = _searchable_paths() if nulls else []
    lines = [_no_such(path, known) for path in nulls if path not in known]
    if lines:
        raise ConfigError("\n".join(lines))


def _unknown_variants(section: str, dimension: spaces.OneOf) -> Iterator[str]:
    known = known_variants(RunConfig, section)
    if not known:
        if section in RunConfig.model_fields:
            yield (
                f"search.space.{section}: must have no one_of, since section {section} has no "
                f"variants: search its settings one by one"
            )
        return
    for name in dimension.one_of:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the variants are {', '.join(known)}"
            yield f"search.space.{section}.one_of.{name}: {section} has no such variant: {hint}"


def _no_such(setting: str, known: list[str]) -> str:
    shared = [path for path in _all_paths() if path not in known]
    near = difflib.get_close_matches(setting, [*known, *shared], 1, cutoff=0.5)
    if near and near[0] in shared:
        return (
            f"search.space.{setting}: {near[0]} is one for all trials of a sweep and cannot be "
            "searched: write it in its section"
        )
    hint = f": did you mean {near[0]}?" if near else ""
    return (
        f"search.space.{setting}: there is no such setting that a trial can have of its own{hint}"
    )


def _all_paths() -> list[str]:
    return [
        path
        for section in RunConfig.model_fields
        for path in (section, *(f"{section}.{name}" for name in known_keys(RunConfig, [section])))
    ]


def _searchable_paths() -> list[str]:
    """Settings that a trial may have of its own."""
    return [
        path
        for path in _all_paths()
        if path.partition(".")[0] != "run" and path not in _NO_TRIALS_OWN
    ]
