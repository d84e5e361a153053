"""Parameter names and the patterns that pick some: whole dotted parts, so `layers.2` is not 20."""

from __future__ import annotations

from collections.abc import Iterable


def has_part(name: str, pattern: str) -> bool:
    """Whether a pattern is in a dotted name as whole parts; a dot at its ends means nothing."""
    return f".{pattern.strip('.')}." in f".{name}."


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The names that have one of the patterns as whole dotted parts."""
    wanted = list(patterns)
    return {name for name in names if any(has_part(name, pattern) for pattern in wanted)}
