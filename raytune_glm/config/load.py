"""Reading a sweep file: YAML, overrides of the command line, and every fault at once with its path."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.errors import ConfigError
from raytune_glm.space import Overrides

Tree = TypeVar("Tree", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, less two traps: `1e-4` is a number, and a key written twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
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
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"an override must be key.path=value, but got {override!r}")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"the value of the override {override!r} is not YAML: {error}"
            ) from None
        set_path(tree, key, value)
    sweep = _validate(SweepConfig, tree, source=str(path))
    return _with_absolute_paths(sweep)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, (p.name for p in path.parent.glob("*.yaml")), 1)
        hint = f": did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"there is no sweep file {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the sweep file {path} cannot be read: {error}") from None
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold a mapping with the sections of a sweep, but got {tree!r}"
        )
    return tree


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
    return _validate(RunConfig, tree, source="the trial")


def _with_absolute_paths(sweep: SweepConfig) -> SweepConfig:
    """Workers run in folders of their own: make what the user wrote relative to his hold there."""
    tree = sweep.model_dump(mode="json")
    model = Path(sweep.model.path).expanduser()
    if model.exists():
        tree["model"]["path"] = str(model.resolve())
    tree["run"]["storage"] = str(sweep.run.storage.expanduser().resolve())
    for split in ("train", "dev", "test"):
        written = tree["data"].get(split)
        for_one = [written] if isinstance(written, str) else written
        if for_one is not None:
            tree["data"][split] = [_absolute_if_there(Path(p).expanduser(), p) for p in for_one]
    return SweepConfig.model_validate(tree)


def _absolute_if_there(path: Path, written: str) -> str:
    return str(path.resolve()) if path.exists() else written


def _validate(kind: type[Tree], tree: Mapping[str, Any], *, source: str) -> Tree:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_line(kind, fault) for fault in error.errors()]
        count = f"{len(lines)} fault" + "s" * (len(lines) != 1)
        raise ConfigError(f"{source} has {count}:\n" + "\n".join(lines)) from None


def _line(kind: type[BaseModel], fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"  {where}: {_unknown_key(kind, fault['loc'])}"
    if fault["type"] == "missing":
        return f"  {where}: must be given, and is not there"
    got = (
        ""
        if isinstance(fault["input"], dict) or "but got" in message
        else f", but got {fault['input']!r}"
    )
    return f"  {where}: {message}{got}" if where else f"  {message}{got}"


def _unknown_key(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    known = known_keys(kind, location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(known)}"
    return f"there is no such key; {hint}"


def known_keys(kind: Any, location: Iterable[int | str]) -> list[str]:
    """The names of the fields at a place of the tree.

    Args:
        kind: Class of the root.
        location: Keys down from the root; a tagged union's tag may stand among them.
    """
    for part in location:
        kinds = _models_in(kind)
        fields = {name: field for k in kinds for name, field in k.model_fields.items()}
        if part in fields:
            kind = fields[str(part)].annotation
        else:  # the tag of a union: the member whose `name` it is
            kind = next((k for k in kinds if _tag(k) == part), kind)
    return [name for k in _models_in(kind) for name in k.model_fields]


def _tag(kind: type[BaseModel]) -> Any:
    field = kind.model_fields.get("name")
    return field.default if field is not None else None


def _models_in(kind: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation admits."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for part in typing.get_args(kind) for model in _models_in(part)]
    return []
