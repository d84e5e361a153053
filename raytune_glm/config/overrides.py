"""Values by dotted path in nested mappings: put there, taken out of the search space, listed."""

from __future__ import annotations

import difflib
from typing import Any

from raytune_glm.errors import ConfigError
from raytune_glm.space import DIMENSIONS

_SPACE = "search.space."


def apply(tree: dict[str, Any], path: str, value: Any) -> None:
    """Do what `path=value` on the command line says: a null takes out of the search space.

    Raises:
        ConfigError: A part of the path is a value that has no parts, or a null takes nothing out.
    """
    if value is None and path.startswith(_SPACE):
        _take_out(tree, path)
    else:
        set_path(tree, path, value)


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` at a dotted path of nested mappings, making those that are not there yet.

    Raises:
        ConfigError: A part of the path is a value that has no parts.
    """
    keys = _with_kind_apart(_keys(path))
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
    if _is_kind(keys) and keys[-1] not in node:
        node.clear()  # the setting was searched over values of another kind
    node[keys[-1]] = value


def _with_kind_apart(keys: list[str]) -> list[str]:
    """Read `search.space.method.rank.choice` as the key `choice` of the dimension `method.rank`."""
    setting, is_apart, kind = keys[-1].rpartition(".")
    return [*keys[:-1], setting, kind] if is_apart and kind in DIMENSIONS else keys


def _keys(path: str) -> list[str]:
    """The keys down to a path; of the search space's own keys each is a dotted path, kept whole."""
    if not path.startswith(_SPACE):
        return path.split(".")
    setting, is_inside, rest = path.removeprefix(_SPACE).partition(".one_of.")
    return ["search", "space", setting, *(["one_of", *rest.split(".")] if is_inside else [])]


def _is_kind(keys: list[str]) -> bool:
    """Whether keys end with a dimension's kind.

    Those are `search, space, method.rank, choice`, or of a setting inside of a variant
    `search, space, method, one_of, lora, rank, choice`.
    """
    return keys[:2] == ["search", "space"] and len(keys) in (4, 7) and keys[-1] in DIMENSIONS


def _take_out(tree: dict[str, Any], path: str) -> None:
    *above, key = _keys(path)
    node: Any = tree
    for name in above:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or key not in node:
        raise ConfigError(_nothing_there(tree, path))
    del node[key]


def _nothing_there(tree: dict[str, Any], path: str) -> str:
    search = tree.get("search")
    there = _entries(search.get("space") if isinstance(search, dict) else None)
    near = difflib.get_close_matches(path.removeprefix(_SPACE), there, 1, cutoff=0.5)
    hint = f"did you mean {_SPACE}{near[0]}=null?" if near else f"it has {', '.join(there)}"
    return (
        f"{path} must be in the search space for a null to take it out, but is not: "
        f"{hint if there else 'the space is empty'}"
    )


def _entries(space: Any) -> list[str]:
    """What a null can take out of a search space: settings, variants and the variants' settings."""
    entries = []
    for path, dimension in space.items() if isinstance(space, dict) else ():
        entries.append(path)
        inside = dimension.get("one_of") if isinstance(dimension, dict) else None
        for variant, names in inside.items() if isinstance(inside, dict) else ():
            entries.append(f"{path}.one_of.{variant}")
            entries += [f"{path}.one_of.{variant}.{name}" for name in names or ()]
    return entries


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Give nested mappings as one, dotted path -> value: the inverse of `set_path`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
