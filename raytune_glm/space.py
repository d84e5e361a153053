"""The search space: dotted paths of the run's configuration, each with the values it may take.

A sweep file writes it under `search.space`:

    method.rank: {choice: [4, 8, 16]}
    train.learning_rate: {log_range: [1e-4, 1e-2]}
    method: {one_of: {lora: {rank: {int_range: [2, 64], log: true}}}}

Every kind of dimension is a class here and one line in `DIMENSIONS`. Nothing in this file knows
Optuna's or Ray's types: a dimension asks a `Chooser` (Optuna's trial is one) for a value. Read
next: `config`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Protocol, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Scalar: TypeAlias = bool | int | float | str | None
Overrides: TypeAlias = dict[str, Any]
"""Dotted path of the configuration -> the value a trial gives it."""

MAX_CORNERS = 5_000
"""Above this many combinations of extremes, dimensions are combined two by two only. A corner takes
0.2 ms to check, and a faulty sweep file is to be answered at once."""


class Chooser(Protocol):
    """Who picks values: the three `suggest_*` calls of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Pick one of `choices`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Pick a float in [low, high]."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Pick an integer in [low, high]."""


class _Dimension(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(_Dimension):
    """One of the listed values, without order. A value may be a list (`target_modules`, say)."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)]
    """The values; at least one, none twice."""

    @model_validator(mode="after")
    def _check(self) -> Choice:
        # By equality, as Optuna compares: for it 1, 1.0 and true are one value.
        if any(value in self.choice[:place] for place, value in enumerate(self.choice)):
            raise ValueError(f"`choice` must not list a value twice, but got {list(self.choice)}")
        return self

    def choose(self, chooser: Chooser, name: str) -> Any:
        """Pick a value. Optuna stores only scalars: what is none is chosen by its text."""
        if all(isinstance(value, bool | int | float | str | None) for value in self.choice):
            return chooser.suggest_categorical(name, list(self.choice))
        shown = [str(value) for value in self.choice]
        return self.choice[shown.index(chooser.suggest_categorical(name, shown))]

    def extremes(self) -> list[Any]:
        """The values that a check of the space must try: all of them."""
        return list(self.choice)


class _Interval(_Dimension):
    @staticmethod
    def _bounds(kind: str, low: float, high: float, *, log: bool) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"`{kind}` must have finite bounds, but got [{low}, {high}]")
        if low >= high:
            raise ValueError(
                f"`{kind}` must be [low, high] with low < high, but got [{low}, {high}]"
            )
        if log and low <= 0:
            raise ValueError(f"`{kind}` on a log scale must start above 0, but got low={low}")

    @staticmethod
    def _grid(kind: str, low: float, high: float, step: float) -> None:
        # In decimals, as they were written: (1 - 0) / 0.1 is no whole number in binary.
        if (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
            raise ValueError(
                f"`step` must divide the width of `{kind}`, so that both ends are on the grid, but "
                f"got step={step} for [{low}, {high}]"
            )


class Range(_Interval):
    """A float between two bounds, both included, uniform; on a grid where `step` is given."""

    range: tuple[float, float]
    """[low, high]."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance of neighbouring values; none means any value."""

    @model_validator(mode="after")
    def _check(self) -> Range:
        self._bounds("range", *self.range, log=False)
        if self.step is not None:
            self._grid("range", *self.range, self.step)
        return self

    def choose(self, chooser: Chooser, name: str) -> float:
        """Pick a value."""
        return chooser.suggest_float(name, *self.range, step=self.step)

    def extremes(self) -> list[float]:
        """The two ends."""
        return list(self.range)


class LogRange(_Interval):
    """A float between two bounds, both included, uniform in its logarithm."""

    log_range: tuple[float, float]
    """[low, high], low > 0."""

    @model_validator(mode="after")
    def _check(self) -> LogRange:
        self._bounds("log_range", *self.log_range, log=True)
        return self

    def choose(self, chooser: Chooser, name: str) -> float:
        """Pick a value."""
        return chooser.suggest_float(name, *self.log_range, log=True)

    def extremes(self) -> list[float]:
        """The two ends."""
        return list(self.log_range)


class IntRange(_Interval):
    """A whole number between two bounds, both included."""

    int_range: tuple[int, int]
    """[low, high]."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance of neighbouring values; only 1 on a log scale."""
    log: bool = False
    """Uniform in the logarithm instead of the value."""

    @model_validator(mode="after")
    def _check(self) -> IntRange:
        self._bounds("int_range", *self.int_range, log=self.log)
        if self.log and self.step != 1:
            raise ValueError(
                f"`step` must be 1 where `log` is true, but got step={self.step}: leave one out"
            )
        self._grid("int_range", *self.int_range, self.step)
        return self

    def choose(self, chooser: Chooser, name: str) -> int:
        """Pick a value."""
        return chooser.suggest_int(name, *self.int_range, step=self.step, log=self.log)

    def extremes(self) -> list[int]:
        """The two ends."""
        return list(self.int_range)


SimpleDimension: TypeAlias = Choice | Range | LogRange | IntRange


def _parse(value: Any, kinds: Mapping[str, type[BaseModel]]) -> Any:
    """Build the dimension whose telling key `value` has, so that a fault names that kind alone."""
    if isinstance(value, BaseModel):
        return value
    written = [key for key in kinds if isinstance(value, Mapping) and key in value]
    if len(written) != 1:
        raise ValueError(
            f"a dimension must be a mapping with exactly one of the keys {', '.join(kinds)}, "
            f"but got {value!r}; write {{choice: [...]}} for listed values"
        )
    kind = kinds[written[0]]
    for key in value:
        if key not in kind.model_fields:
            raise ValueError(
                f"`{written[0]}` takes the keys {', '.join(kind.model_fields)}, but got {key!r}"
            )
    return kind.model_validate(value)


SIMPLE_DIMENSIONS: dict[str, type[BaseModel]] = {
    "choice": Choice,
    "range": Range,
    "log_range": LogRange,
    "int_range": IntRange,
}

SubDimension = Annotated[
    SimpleDimension, BeforeValidator(lambda value: _parse(value, SIMPLE_DIMENSIONS))
]


class OneOf(_Dimension):
    """One of several named variants of a section, each with settings of its own to search.

    `method: {one_of: {lora: {rank: ...}}}` sets `method.name` to the variant chosen, and only that
    variant's settings are searched: a conditional space.
    """

    one_of: Annotated[dict[str, dict[str, SubDimension]], Field(min_length=1)]
    """Variant's name -> setting's name inside the section -> dimension; settings may be none."""

    def choose_section(self, chooser: Chooser, section: str) -> Overrides:
        """Pick a variant of `section` and its settings.

        The chooser's names carry the variant, `method[lora].rank`: two variants may search a
        setting of one name over different values, which Optuna refuses under a common name.
        """
        variant = chooser.suggest_categorical(f"{section}.name", list(self.one_of))
        chosen: Overrides = {section: {"name": variant}}
        for name, dimension in self.one_of[variant].items():
            chosen[f"{section}.{name}"] = dimension.choose(chooser, f"{section}[{variant}].{name}")
        return chosen

    def extremes_of_section(self, section: str) -> Iterator[Overrides]:
        """Every variant with every combination of its settings' extremes."""
        for variant, dimensions in self.one_of.items():
            names = [f"{section}.{name}" for name in dimensions]
            for values in itertools.product(*(d.extremes() for d in dimensions.values())):
                yield {section: {"name": variant}, **dict(zip(names, values, strict=True))}


DIMENSIONS: dict[str, type[BaseModel]] = {**SIMPLE_DIMENSIONS, "one_of": OneOf}

Dimension = Annotated[
    SimpleDimension | OneOf, BeforeValidator(lambda value: _parse(value, DIMENSIONS))
]


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {path: dimension for path, dimension in value.items() if dimension is not None}


Space: TypeAlias = Annotated[dict[str, Dimension], BeforeValidator(_without_nulls)]
"""Dotted path -> dimension. Null takes one out of the file: `search.space.method.alpha=null`."""


def choose(space: Space, chooser: Chooser) -> Overrides:
    """Pick one point of the space.

    Args:
        space: Dotted path -> dimension.
        chooser: Who picks, usually an Optuna trial.

    Returns:
        Dotted path -> value. A `OneOf` at `method` gives `method: {"name": ...}`, which replaces
        the whole section, followed by `method.<setting>` for what it searches.
    """
    chosen: Overrides = {}
    for path, dimension in space.items():
        if isinstance(dimension, OneOf):
            chosen.update(dimension.choose_section(chooser, path))
        else:
            chosen[path] = dimension.choose(chooser, path)
    return chosen


def corners(space: Space) -> Iterator[Overrides]:
    """Yield every combination of the dimensions' extremes, a choice being extreme at each value.

    Where that makes more than `MAX_CORNERS` combinations, each pair of dimensions is combined fully
    while the rest stay at their first extreme: a rule that ties three settings may then be missed
    here, and is caught when a trial is built.
    """
    axes: list[list[Overrides]] = [
        list(dimension.extremes_of_section(path))
        if isinstance(dimension, OneOf)
        else [{path: value} for value in dimension.extremes()]
        for path, dimension in space.items()
    ]
    if math.prod(len(axis) for axis in axes) <= MAX_CORNERS:
        combinations: Iterator[tuple[Overrides, ...]] = itertools.product(*axes)
    else:
        combinations = _pairwise(axes)
    for parts in combinations:
        yield {path: value for part in parts for path, value in part.items()}


def _pairwise(axes: list[list[Overrides]]) -> Iterator[tuple[Overrides, ...]]:
    first = [axis[0] for axis in axes]
    for i, j in itertools.combinations(range(len(axes)), 2):
        for left, right in itertools.product(axes[i], axes[j]):
            point = list(first)
            point[i], point[j] = left, right
            yield tuple(point)
