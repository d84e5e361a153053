"""Reading a sweep file: YAML, and the overrides of the command line. Read next: `faults`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from raytune_glm.config.faults import validate
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.data import SPLITS
from raytune_glm.errors import ConfigError
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
    tree = _read(path)
    for override in overrides:
        set_path(tree, *parse_override(override))
    sweep = validate(SweepConfig, tree, source=str(path))
    return _with_absolute_paths(sweep)


def parse_override(written: str) -> tuple[str, Any]:
    """Read `key.path=value`; the value is YAML.

    Raises:
        ConfigError: It is not of this form.
    """
    key, equals, text = written.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override must be key.path=value, but got {written!r}")
    return key, _parse(text, f"the value of the override {written!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, (p.name for p in path.parent.glob("*.yaml")), 1)
        hint = f": did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"there is no sweep file {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the sweep file {path} cannot be read: {error}") from None
    tree = _parse(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold a mapping with the sections of a sweep, but got {tree!r}"
        )
    return tree


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    # ValueError: what looks like a date and is none, `2024-13-01`.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` at a dotted path of nested mappings, making those that are not there yet.

    Keys under `search.space` are dotted paths themselves, and are kept whole.

    Raises:
        ConfigError: A part of the path is a value that has no parts.
    """
    prefix = "search.space."
    keys = (
        ["search", "space", path.removeprefix(prefix)]
        if path.startswith(prefix)
        else path.split(".")
    )
    node = tree
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"{path} cannot be set: {'.'.join(keys[: depth + 1])} is {child!r}, not a section"
            )
        node = child
    node[keys[-1]] = value


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Give nested mappings as one, dotted path -> value: the inverse of `set_path`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


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
