"""What is measured of a trial and may be an objective or have a limit. Read next: `settings`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raytune_glm.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that each report of a trial has."""

    direction: Literal["max", "min"]
    """Whether more or less is better."""
    ideal: float
    """The best value there can be."""
    is_cost: bool
    """Whether it only grows while a trial runs, and so is settled once it is above a limit. Other
    quantities are those of the best evaluation, whose adapter is the one that is kept."""


FORGETTING = "forgetting"
"""Rise of the loss on the rows of `data.retain` over the untrained base's; below 0: it fell."""

COSTS = ("trainable_parameters", "seconds", "device_seconds", "peak_memory_bytes")

QUANTITIES: dict[str, Quantity] = {
    **{
        name: Quantity(direction=metric.direction, ideal=metric.ideal, is_cost=False)
        for name, metric in METRICS.items()
    },
    **{name: Quantity(direction="min", ideal=0.0, is_cost=True) for name in COSTS},
    FORGETTING: Quantity(direction="min", ideal=-math.inf, is_cost=False),
}
"""Every quantity, by its name in a report."""

SCORES = tuple(name for name, quantity in QUANTITIES.items() if not quantity.is_cost)
"""Those that an evaluation measures."""


def measured(
    names: tuple[str, ...], *, best: Mapping[str, Any], last: Mapping[str, Any]
) -> dict[str, float]:
    """Give a trial's values of some quantities.

    Args:
        names: Keys of `QUANTITIES`.
        best: The report of the best evaluation.
        last: The last report.

    Returns:
        Name -> value; what was not reported is left out.
    """
    values = {}
    for name in names:
        report = last if QUANTITIES[name].is_cost else best
        if report.get(name) is not None:
            values[name] = float(report[name])
    return values


def excess(name: str, value: float, limit: float) -> float:
    """How far a value is on the wrong side of a limit, as a share of it; 0 or less: it is kept."""
    over = value - limit if QUANTITIES[name].direction == "min" else limit - value
    return over / abs(limit) if limit else over


def dominates(values: tuple[float, ...], other: tuple[float, ...], names: tuple[str, ...]) -> bool:
    """Whether a trial is nowhere worse than another, and somewhere better.

    Args:
        values: Its objectives.
        other: The other's, in the same order.
        names: The objectives, keys of `QUANTITIES`.
    """
    signs = [1 if QUANTITIES[name].direction == "max" else -1 for name in names]
    gains = [sign * (a - b) for sign, a, b in zip(signs, values, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
