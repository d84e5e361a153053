"""Wording for what is wrong with a configuration: the path of the setting, the rule, the value.

Read next: `check`, which finds what validation of the tree alone cannot.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from raytune_glm.errors import ConfigError, shown

Tree = TypeVar("Tree", bound=BaseModel)

# By pydantic's error types; its own words for these speak of Python's types.
_NO_SECTION = ("model_type", "model_attributes_type")
_RULES = {
    "missing": "must be given, and is not there",
    **dict.fromkeys(_NO_SECTION, "must be a section with keys of its own"),
    "dict_type": "must be a mapping",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} item",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}, but got {tag!r}",
    "union_tag_not_found": "must have the key {discriminator}",
    "float_parsing": "must be a number",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a valid integer"),
}
_REMEDIES = {
    "dict_type": "write {} for an empty one",
    "float_parsing": "write it without a unit, 24e9 or 1e-4 say",
}

_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}

_UNSPACED = re.compile(r"([^:]+):(\S+)")
"""`rank:8`, which in YAML is a key without a value."""


def validate(kind: type[Tree], tree: Mapping[str, Any], *, source: str) -> Tree:
    """Build the configuration that nested mappings describe.

    Args:
        kind: Class of the root.
        tree: Section -> setting -> value.
        source: What the tree was read from, for the message.

    Returns:
        The configuration.

    Raises:
        ConfigError: Every fault found, one a line, each with its path in the tree.
    """
    try:
        built = kind.model_validate(tree)
    except ValidationError as error:
        lines = [line for fault in error.errors() for line in _lines(kind, fault)]
    else:
        lines = [
            f"{where}: must be a number, but got {value}"
            for where, value in _truths_as_numbers(tree, built)
        ]
        if not lines:
            return built
    count = f"{len(lines)} fault" + "s" * (len(lines) != 1)
    raise ConfigError("\n  ".join([f"{source} has {count}:", *lines]))


def _lines(kind: type[BaseModel], fault: Any) -> list[str]:
    """What is wrong at one place: of a rule over several settings each fault on its own line."""
    where = ".".join(map(str, _without_tags(kind, fault["loc"])))
    last = str(fault["loc"][-1]) if fault["loc"] else ""
    if fault["input"] is None and (unspaced := _UNSPACED.fullmatch(last)):
        key, value = unspaced.groups()
        messages = [f"YAML ends a key at a colon with a space behind it: write {key}: {value}"]
    elif fault["type"] == "extra_forbidden":
        messages = [_unknown_key(kind, fault["loc"], where)]
    else:
        messages = (_message(fault) + _remedy(kind, fault, where)).splitlines()
    # Rules over several settings name them by their paths.
    return [
        message if not where or message.startswith(f"{where}.") else f"{where}: {message}"
        for message in messages
    ]


def _unknown_key(kind: type[BaseModel], location: tuple[Any, ...], where: str) -> str:
    if owners := _variants_with(kind, location):
        *_, chosen, _ = location
        return (
            f"is a setting of {' and '.join(owners)}, not of {chosen}: leave it out, or "
            f"begin the section anew by {where.rpartition('.')[0]}={chosen}"
        )
    if len(location) == 1 and (found := _setting_named(kind, location[0])):
        return f"there is no such key; did you mean {found}?"
    return f"there is no such key{_hint(location[-1], known_keys(kind, location[:-1]))}"


def _message(fault: Any) -> str:
    if fault["type"] in _RULES:
        message = _RULES[fault["type"]].format(**fault.get("ctx", {}))
    else:
        message = fault["msg"].removeprefix("Value error, ")
        message = re.sub("^(Input|String) should", "must", message)
    if isinstance(fault["input"], dict) or "but got" in message:
        return message
    return f"{message}, but got {shown(fault['input'])}"


def _remedy(kind: type[BaseModel], fault: Any, where: str) -> str:
    if fault["type"] in (*_NO_SECTION, "union_tag_not_found"):
        return _section_like(kind, fault["loc"], where)
    if fault["type"] == "missing":
        examples = _examples(kind, fault["loc"])
        return f": add {where}={examples[0]}, say" if examples else ""
    if fault["type"] in _BOUNDS:
        defaults = [field.default for field in _fields(kind, fault["loc"])]
        known = [default for default in defaults if isinstance(default, int | float)]
        return f": leave it out for the default, {known[0]}" if known else ""
    remedy = _REMEDIES.get(fault["type"])
    return "" if remedy is None else f": {remedy}"


def _section_like(kind: type[BaseModel], location: tuple[Any, ...], where: str) -> str:
    """What may stand where a section should."""
    below: Any = kind
    for part in location:
        below, _ = _below(below, part)
    models = _models_in(below)
    if len(models) > 1:
        return f": write one of {', '.join(str(_tag(model)) for model in models)}"
    defaults = {
        name: field.default
        for model in models
        for name, field in model.model_fields.items()
        if isinstance(field.default, int | float | str)
    }
    like = ", ".join(f"{name}: {value}" for name, value in [*defaults.items()][:2])
    return f": write {where}={{{like}}}, say" if like else ""


def _examples(kind: Any, location: tuple[Any, ...]) -> list[Any]:
    """The examples of a field that is missing."""
    return [example for field in _fields(kind, location) for example in field.examples or ()]


def _fields(kind: Any, location: tuple[Any, ...]) -> list[FieldInfo]:
    """The fields that a place may be of."""
    *above, name = location
    for part in above:
        kind, _ = _below(kind, part)
    return [model.model_fields[name] for model in _models_in(kind) if name in model.model_fields]


def _variants_with(kind: Any, location: tuple[int | str, ...]) -> list[Any]:
    """The other variants of a tagged union that have the setting which the chosen one lacks."""
    if len(location) < 2:
        return []
    *path, chosen, key = location
    for part in path:
        kind, _ = _below(kind, part)
    variants = {_tag(model): model for model in _models_in(kind)}
    if chosen not in variants:
        return []
    return [tag for tag, model in variants.items() if tag and key in model.model_fields]


def _setting_named(kind: Any, key: str) -> str | None:
    """Find the section of a setting that was written without it, `learning_rate` say."""
    for section in known_keys(kind, []):
        if key in known_keys(kind, [section]):
            return f"{section}.{key}"
    return None


def _hint(written: Any, known: list[str]) -> str:
    near = difflib.get_close_matches(str(written), known, 1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; the keys here are {', '.join(known)}" if known else ""


def _truths_as_numbers(tree: Mapping[str, Any], built: BaseModel) -> Iterator[tuple[str, bool]]:
    """Find `max_steps: true`, which pydantic takes for 1 and nobody means."""
    for key, value in tree.items():
        setting = getattr(built, key)
        if isinstance(value, bool) and not isinstance(setting, bool):
            yield key, value
        elif isinstance(value, Mapping) and isinstance(setting, BaseModel):
            yield from ((f"{key}.{rest}", v) for rest, v in _truths_as_numbers(value, setting))


def known_keys(kind: Any, location: Iterable[int | str]) -> list[str]:
    """List the fields at a place of the tree.

    Args:
        kind: Class of the root.
        location: Keys down from the root; a tagged union's tag may stand among them.

    Returns:
        Names of the fields of every class that may stand there.
    """
    for part in location:
        kind, _ = _below(kind, part)
    return [name for k in _models_in(kind) for name in k.model_fields]


def known_variants(kind: type[BaseModel], section: str) -> list[str]:
    """List the names of the variants that may stand in a section; none where it is but one."""
    below, _ = _below(kind, section)
    models = _models_in(below)
    return [str(_tag(model)) for model in models] if len(models) > 1 else []


def _without_tags(kind: Any, location: Iterable[int | str]) -> list[int | str]:
    """Drop the tags that pydantic puts into a location and no file has."""
    kept = []
    for part in location:
        kind, is_tag = _below(kind, part)
        if not is_tag:
            kept.append(part)
    return kept


def _below(kind: Any, part: int | str) -> tuple[Any, bool]:
    """The annotation one part further down, and whether that part is the tag of a union."""
    models = _models_in(kind)
    for model in models:
        if part in model.model_fields:
            return model.model_fields[str(part)].annotation, False
    tagged = [model for model in models if _tag(model) == part]
    return (tagged[0], True) if tagged else (None, False)


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
