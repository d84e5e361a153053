"""Reading a sweep file: YAML, and the overrides of the command line.

Read next: `overrides`, `faults`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from raytune_glm import files
from raytune_glm.config.faults import validate
from raytune_glm.config.overrides import apply, set_path
from raytune_glm.config.paths import check_nulls
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.data import SPLITS
from raytune_glm.errors import ConfigError, shown
from raytune_glm.space import Overrides

Run = TypeVar("Run", bound=RunConfig)

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML's safe loader less two traps: `1e-4` is a number, a key written twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is written twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML follows, wants a dot in a float; YAML 1.2's core schema does not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep file.

    Args:
        path: The YAML file.
        overrides: `key.path=value` each, applied in order; the value is read as YAML.

    Returns:
        The configuration, with relative paths made absolute against the current folder.

    Raises:
        ConfigError: Every fault found, one a line, each with its path in the tree.
    """
    return parse_sweep(_read(path, "sweep file"), overrides, source=str(path))


def load_run(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a run file: a sweep file that searches nothing. Of `search` only `metric` counts.

    See `load_sweep` for arguments, result and what is raised.

    Raises:
        ConfigError: As `load_sweep`, or the file has something to search.
    """
    return parse_run(_read(path, "run file"), overrides, source=str(path))


def parse_run(text: str, overrides: Iterable[str] = (), *, source: str) -> SweepConfig:
    """As `load_run`, of the text of a file; `source` is what messages call it."""
    run = parse_sweep(text, overrides, source=source)
    if run.search.space:
        raise ConfigError(
            "search.space must be empty where one configuration is trained, but "
            f"{source} searches {', '.join(run.search.space)}: add search.space={{}} to train the "
            "file's own settings, or search with python -m raytune_glm.sweep"
        )
    if "name" in run.run.model_fields_set:
        return run
    return run.model_copy(update={"run": run.run.model_copy(update={"name": "run"})})


def parse_sweep(text: str, overrides: Iterable[str] = (), *, source: str) -> SweepConfig:
    """As `load_sweep`, of the text of a file; `source` is what messages call it."""
    overrides = list(overrides)
    tree = _parse(text, source)
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{source} must hold a mapping with the sections of a sweep, but got {shown(tree)}"
        )
    _name_sections(tree)
    for override in overrides:
        apply(tree, *parse_override(override))
        _name_sections(tree)
    check_nulls(tree)
    named = f"{source} with the command line's settings" if overrides else source
    sweep = _with_absolute_paths(validate(SweepConfig, tree, source=named))
    _refuse_searched(sweep, [parse_override(override)[0] for override in overrides])
    return sweep


def _refuse_searched(sweep: SweepConfig, paths: Iterable[str]) -> None:
    """Refuse a value for what each trial draws for itself: it would change nothing."""
    lines = [
        f"{path} must not be given where search.space.{path} searches it, since every trial draws "
        f"its own: add search.space.{path}=null to fix it, or give search.space.{path} other values"
        for path in paths
        if path in sweep.search.space
    ]
    if lines:
        raise ConfigError("\n".join(lines))


_CHOSEN_BY_NAME = ("method", "search.sampler", "search.scheduler")
"""Sections that are one of several, told by their `name`; a name alone stands for its defaults."""


def _name_sections(tree: dict[str, Any]) -> None:
    """Read `search.sampler: random` as `search.sampler: {name: random}`."""
    for path in _CHOSEN_BY_NAME:
        *sections, key = path.split(".")
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(key), str):
            node[key] = {"name": node[key]}


def parse_override(written: str) -> tuple[str, Any]:
    """Read `key.path=value`; the value is YAML.

    Raises:
        ConfigError: It is not of this form.
    """
    key, equals, text = written.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override must be key.path=value, but got {written!r}")
    return key, _parse(text, f"the value of the override {written!r}")


def _read(path: Path, kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        there = {found.name: found for found in sorted(path.parent.glob("*/*.yaml"))}
        there |= {found.name: found for found in path.parent.glob("*.yaml")}
        near = difflib.get_close_matches(path.name, there, 1)
        hint = f": did you mean {there[near[0]]}?" if near else ""
        raise ConfigError(f"there is no {kind} {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the {kind} {path} cannot be read: {error}") from None


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    # ValueError: what looks like a date and is none, `2024-13-01`.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None


def run_of(sweep: SweepConfig) -> RunConfig:
    """The run that a sweep file describes, without the search over it."""
    return RunConfig.model_validate(sweep.model_dump(exclude={"search"}))


def trial_run(base: RunConfig, overrides: Overrides) -> RunConfig:
    """Apply a trial's values to the run that the sweep file describes.

    Args:
        base: The run as written.
        overrides: Dotted path -> value, as `space.choose` gives them.

    Raises:
        ConfigError: The values, alone or together, are illegal; every fault is listed.
    """
    tree = base.model_dump(mode="json")
    for path, value in overrides.items():
        set_path(tree, path, value)
    return _with_absolute_paths(validate(RunConfig, tree, source="the trial"))


def write_trial_file(run: RunConfig, folder: Path, *, metric: str) -> None:
    """Write a trial as a run file, with results of its own, into its folder.

    Args:
        run: The trial.
        folder: Its folder.
        metric: What the sweep optimizes.
    """
    tree = run.model_dump(mode="json")
    tree["run"]["name"] = f"{run.run.name}-{folder.name}"
    tree["search"] = {"metric": metric}
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    files.write_text(folder / "config.yaml", text)


def _with_absolute_paths(config: Run) -> Run:
    """Workers run in folders of their own: make what the user wrote relative to his hold there."""
    places: dict[str, tuple[str, ...]] = {
        split: tuple(_absolute_if_there(place) for place in written)
        for split in SPLITS
        if (written := getattr(config.data, split)) is not None
    }
    path = _absolute_if_there(config.model.path)
    storage = config.run.storage.expanduser().resolve()
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": path}),
            "data": config.data.model_copy(update=places),
            "run": config.run.model_copy(update={"storage": storage}),
        }
    )


def _absolute_if_there(written: str) -> str:
    """Leave hub names, and what does not exist, as they were written: messages quote them."""
    path = Path(written).expanduser()
    return str(path.resolve()) if path.exists() else written
