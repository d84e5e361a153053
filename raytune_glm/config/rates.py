"""Learning rates by parts of names: which parameters train at which peak rate."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_glm.config.tree import TrainSettings
from raytune_glm.errors import ConfigError
from raytune_glm.methods.names import has_part


def names_by_rate(names: Iterable[str], train: TrainSettings) -> dict[float, list[str]]:
    """Sort what trains by its peak learning rate.

    Args:
        names: Names of the parameters that train.
        train: The `train` section; a name takes the rate of the first pattern in `learning_rates`
            that it has, and `learning_rate` where it has none.

    Returns:
        Rate -> names. That of `learning_rate` is the first, unless nothing is left to it.

    Raises:
        ConfigError: A pattern is left without a name.
    """
    unused = set(train.learning_rates)
    groups: dict[float, list[str]] = {train.learning_rate: []}
    known = list(names)
    for name in known:
        pattern = next((p for p in train.learning_rates if has_part(name, p)), None)
        unused.discard(pattern or "")
        groups.setdefault(train.peak_rate(pattern), []).append(name)
    if unused:
        raise ConfigError(
            "train.learning_rates must name parts of what trains, each some of its own, but "
            f"{', '.join(map(repr, sorted(unused)))} picks nothing (left) of {_some(known)}: "
            "correct or drop it; of two patterns that fit a name the first one counts"
        )
    return {rate: picked for rate, picked in groups.items() if picked}


def _some(names: list[str]) -> str:
    """Each kind of name once: numbered layers are alike."""
    kinds = dict.fromkeys(
        ".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names
    )
    shown = list(kinds)[:6]
    return ", ".join(shown) + (", ..." if len(kinds) > len(shown) else "")
