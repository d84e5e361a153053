"""A search space as vectors: what a model of scores learns from, and where it proposes.

A point is a row of places, one an axis: for a number its place in the range from 0 to 1, on the
range's own scale; for a choice the index in its list. Read next: `forecast`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial

from raytune_glm import space as spaces

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Axis:
    """A setting that is searched."""

    name: str
    distribution: BaseDistribution

    @property
    def num_choices(self) -> int:
        """Of a choice; 0 for a number."""
        known = self.distribution
        return len(known.choices) if isinstance(known, CategoricalDistribution) else 0

    def _ends(self) -> tuple[float, float]:
        """Of the range as places see it: a step reaches half a step beyond both ends."""
        known = self.distribution
        assert isinstance(known, FloatDistribution | IntDistribution)
        beyond = (known.step or 0) / 2
        low, high = known.low - beyond, known.high + beyond
        return (float(np.log(low)), float(np.log(high))) if known.log else (low, high)

    def place(self, value: Any) -> float:
        """Where a value is; ValueError where it is outside."""
        known = self.distribution
        inner = known.to_internal_repr(value)
        if not known._contains(inner):
            raise ValueError(f"{self.name}: {value!r} is outside of {known}")
        if self.num_choices:
            return inner
        low, high = self._ends()
        at = np.log(inner) if known.log else inner  # type: ignore[attr-defined]
        return float((at - low) / (high - low)) if high > low else 0.5

    def value(self, place: float) -> Any:
        """The value nearest to a place."""
        known = self.distribution
        if self.num_choices:
            return known.to_external_repr(place)
        return known.to_external_repr(float(self._values(np.array([place]))[0]))

    def _values(self, places: Array) -> Array:
        known = self.distribution
        assert isinstance(known, FloatDistribution | IntDistribution)
        low, high = self._ends()
        at = low + places * (high - low)
        values = np.exp(at) if known.log else at
        if known.step:
            values = known.low + np.round((values - known.low) / known.step) * known.step
        return np.clip(values, known.low, known.high)

    def snap(self, places: Array) -> Array:
        """The places of the values nearest to places."""
        known = self.distribution
        if self.num_choices or not getattr(known, "step", None):
            return places
        low, high = self._ends()
        values = self._values(places)
        at = np.log(values) if known.log else values  # type: ignore[attr-defined]
        return np.asarray((at - low) / (high - low) if high > low else np.full_like(at, 0.5))


class Cube:
    """The axes of a space without `one_of`, and rows of places along them."""

    def __init__(self, space: spaces.Space) -> None:
        """Lay out the axes in the order of the space."""
        trial = FixedTrial(spaces.locate(space, next(spaces.corners(space))))
        spaces.choose(space, trial)  # any point: it asks for all settings, as each of them does
        self.axes = [Axis(name, known) for name, known in trial.distributions.items()]
        widths = [axis.num_choices or 1 for axis in self.axes]
        self.groups = np.repeat(np.arange(len(self.axes)), widths)
        """Of each feature: the axis that it is of."""

    def row(self, params: Mapping[str, Any]) -> Array | None:
        """The places of a trial's values; none where one is missing or outside of the space."""
        try:
            return np.array([axis.place(params[axis.name]) for axis in self.axes])
        except (KeyError, ValueError):
            return None

    def values(self, row: Array) -> dict[str, Any]:
        """The values at a row of places."""
        return {axis.name: axis.value(place) for axis, place in zip(self.axes, row, strict=True)}

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Rows drawn evenly."""
        rows = rng.random((count, len(self.axes)))
        for index, axis in enumerate(self.axes):
            if axis.num_choices:
                rows[:, index] = np.floor(rows[:, index] * axis.num_choices)
        return rows

    def settle(self, rows: Array, fixed: Mapping[str, Any]) -> Array:
        """Rows with what is fixed at its value, and steps kept."""
        settled = np.array(rows)
        for index, axis in enumerate(self.axes):
            if axis.name in fixed:
                settled[:, index] = axis.place(fixed[axis.name])
            settled[:, index] = axis.snap(settled[:, index])
        return settled

    def near(self, rows: Array, count: int, width: float, rng: np.random.Generator) -> Array:
        """`count` neighbours of each row: some settings moved by about `width`, or chosen anew."""
        around = np.repeat(rows, count, axis=0)
        drawn = self.draw(len(around), rng)
        num_axes = len(self.axes)
        moved = rng.random(around.shape) < max(1.0 / num_axes, 0.3)
        moved[np.arange(len(around)), rng.integers(0, num_axes, len(around))] = True
        for index, axis in enumerate(self.axes):
            old, new = around[:, index], drawn[:, index]
            if not axis.num_choices:
                new = _within(old + width * rng.standard_normal(len(old)))
            around[:, index] = np.where(moved[:, index], new, old)
        return around

    def features(self, rows: Array) -> Array:
        """Rows as points between which a distance means something.

        Choices are spread over a feature each, all equally far apart.
        """
        columns = []
        for axis, places in zip(self.axes, rows.T, strict=True):
            if axis.num_choices:
                columns += [
                    math.sqrt(0.5) * (places == choice) for choice in range(axis.num_choices)
                ]
            else:
                columns.append(places)
        return np.stack(columns, axis=1)


def _within(places: Array) -> Array:
    """Places mirrored at the ends of the range."""
    folded = np.abs(places) % 2.0
    return np.where(folded > 1, 2.0 - folded, folded)
