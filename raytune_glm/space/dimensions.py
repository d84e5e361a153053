"""The kinds of dimensions: the values that one setting may take. Read next: `variants`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Protocol, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


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
        """Pick a value."""
        stored = self.grid()
        return self.choice[stored.index(chooser.suggest_categorical(name, stored))]

    def extremes(self) -> list[Any]:
        """The values that a check of the space must try: all of them."""
        return list(self.choice)

    def grid(self) -> list[Any]:
        """All values as a study stores them: scalars, or the texts of what is none."""
        if all(isinstance(value, bool | int | float | str | None) for value in self.choice):
            return list(self.choice)
        return [str(value) for value in self.choice]

    def locate(self, value: Any) -> Any:
        """The value as a study stores it.

        Raises:
            ValueError: It is not one of the choices.
        """
        if value not in self.choice:
            raise ValueError(f"must be one of {list(self.choice)}, but got {value!r}")
        return self.grid()[self.choice.index(value)]

    def perturb(self, value: Any, rng: random.Random, *, resample: float) -> Any:
        """Another value: any with probability `resample`, else a neighbour in the list."""
        if rng.random() < resample:
            return rng.choice(self.choice)
        place = self.choice.index(value) + rng.choice((-1, 1))
        return self.choice[min(max(place, 0), len(self.choice) - 1)]


FACTORS = (0.8, 1.25)
"""What a number is multiplied by in a copy of a trial; Jaderberg et al. 2017 have 0.8 and 1.2, of
which many would lead downwards."""


class _Interval(_Dimension):
    @staticmethod
    def _scaled(value: float, low: float, high: float, rng: random.Random) -> float:
        return min(max(value * rng.choice(FACTORS), low), high)

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
    def _within(low: float, high: float, value: Any, step: float | None = None) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"must be a number in [{low}, {high}], but got {value!r}")
        if step is not None and (Decimal(str(value)) - Decimal(str(low))) % Decimal(str(step)):
            raise ValueError(f"must be {low} + a multiple of {step}, but got {value!r}")

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

    def grid(self) -> list[float]:
        """All values.

        Raises:
            ValueError: There is no `step`, so that there are infinitely many.
        """
        if self.step is None:
            raise ValueError("has infinitely many values: give it a `step`, or write a `choice`")
        low, high = (Decimal(str(end)) for end in self.range)
        step = Decimal(str(self.step))
        return [float(low + place * step) for place in range(int((high - low) / step) + 1)]

    def locate(self, value: Any) -> float:
        """The value as a study stores it; ValueError where it is not in the range."""
        self._within(*self.range, value, self.step)
        return float(value)

    def perturb(self, value: float, rng: random.Random, *, resample: float) -> float:
        """Another value: any with probability `resample`, else this one times a factor."""
        low, high = self.range
        found = (
            rng.uniform(low, high)
            if rng.random() < resample
            else self._scaled(value, low, high, rng)
        )
        return found if self.step is None else min(self.grid(), key=lambda v: abs(v - found))


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

    def grid(self) -> list[float]:
        """No list: ValueError always."""
        raise ValueError(
            "has infinitely many values: write a `choice` of some of them, or a `range` with a "
            "`step`"
        )

    def locate(self, value: Any) -> float:
        """The value as a study stores it; ValueError where it is not in the range."""
        self._within(*self.log_range, value)
        return float(value)

    def perturb(self, value: float, rng: random.Random, *, resample: float) -> float:
        """Another value: any with probability `resample`, else this one times a factor."""
        low, high = self.log_range
        if rng.random() < resample:
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
            return min(max(drawn, low), high)
        return self._scaled(value, low, high, rng)


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

    def grid(self) -> list[int]:
        """All values."""
        low, high = self.int_range
        return list(range(low, high + 1, self.step))

    def locate(self, value: Any) -> int:
        """The value as a study stores it; ValueError where it is not in the range."""
        self._within(*self.int_range, value, self.step)
        return int(value)

    def perturb(self, value: int, rng: random.Random, *, resample: float) -> int:
        """Another value: any with probability `resample`, else the nearest to this one scaled."""
        if rng.random() < resample:
            return rng.choice(self.grid())
        scaled = self._scaled(value, *self.int_range, rng)
        return min(self.grid(), key=lambda v: abs(v - scaled))


SimpleDimension: TypeAlias = Choice | Range | LogRange | IntRange


def parse_dimension(value: Any, kinds: Mapping[str, type[BaseModel]]) -> Any:
    """Build the dimension whose telling key `value` has, so that a fault names that kind alone."""
    if isinstance(value, BaseModel):
        return value
    written = [key for key in kinds if isinstance(value, Mapping) and key in value]
    if len(written) != 1:
        raise ValueError(
            f"a dimension must be a mapping with exactly one of the keys {', '.join(kinds)}, "
            f"but got {value!r}; write {{choice: [...]}} for listed values, {{range: [low, high]}} "
            "for all between two, or, to search it no more, null here and the value in its section"
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
    SimpleDimension, BeforeValidator(lambda value: parse_dimension(value, SIMPLE_DIMENSIONS))
]


def located(path: str, dimension: SimpleDimension, value: Any) -> Any:
    """The value as a study stores it; ValueError with the path where it is not of the dimension."""
    try:
        return dimension.locate(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def grid_of(path: str, dimension: SimpleDimension) -> list[Any]:
    """All values of a dimension; ValueError with the path where they are infinitely many."""
    try:
        return dimension.grid()
    except ValueError as error:
        raise ValueError(f"search.space.{path}: {error}") from None
