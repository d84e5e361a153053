"""One of several variants of a section, each with a space of its own. Read next: `points`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raytune_glm.space.dimensions import (
    SIMPLE_DIMENSIONS,
    Chooser,
    SimpleDimension,
    SubDimension,
    grid_of,
    located,
    parse_dimension,
)

Overrides: TypeAlias = dict[str, Any]
"""Dotted path of the configuration -> the value a trial gives it."""


class OneOf(BaseModel):
    """One of several named variants of a section, each with settings of its own to search.

    `method: {one_of: {lora: {rank: ...}}}` sets `method.name` to the variant chosen, and only that
    variant's settings are searched: a conditional space.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def variants_with(self, name: str) -> list[str]:
        """The variants that search a setting of this name."""
        return [variant for variant, dimensions in self.one_of.items() if name in dimensions]

    def extremes_of_section(self, section: str) -> Iterator[Overrides]:
        """Every variant with every combination of its settings' extremes."""
        for variant, dimensions in self.one_of.items():
            names = [f"{section}.{name}" for name in dimensions]
            for values in itertools.product(*(d.extremes() for d in dimensions.values())):
                yield {section: {"name": variant}, **dict(zip(names, values, strict=True))}

    def grid_of_section(self, section: str) -> list[dict[str, Any]]:
        """Every variant with every combination of its settings, under the chooser's names."""
        points = []
        for variant, dimensions in self.one_of.items():
            axes = {
                f"{section}[{variant}].{name}": grid_of(f"{section}.{name}", dimension)
                for name, dimension in dimensions.items()
            }
            for values in itertools.product(*axes.values()):
                points.append({f"{section}.name": variant, **dict(zip(axes, values, strict=True))})
        return points

    def locate_section(self, section: str, values: Overrides) -> dict[str, Any]:
        """Take what is this section's out of `values`, under the chooser's names.

        Raises:
            ValueError: The variant is none of these, or a value is outside of its dimension.
        """
        written = values.pop(section, None)
        if isinstance(written, Mapping):
            values.update({f"{section}.{name}": value for name, value in written.items()})
            written = None
        variant = values.pop(f"{section}.name", written)
        if variant is None:
            return {}
        if variant not in self.one_of:
            raise ValueError(
                f"{section}: must be one of {', '.join(self.one_of)}, but got {variant!r}"
            )
        return {f"{section}.name": variant} | {
            f"{section}[{variant}].{name}": located(
                f"{section}.{name}", dimension, values.pop(f"{section}.{name}")
            )
            for name, dimension in self.one_of[variant].items()
            if f"{section}.{name}" in values
        }


DIMENSIONS: dict[str, type[BaseModel]] = {**SIMPLE_DIMENSIONS, "one_of": OneOf}

Dimension = Annotated[
    SimpleDimension | OneOf, BeforeValidator(lambda value: parse_dimension(value, DIMENSIONS))
]


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {path: dimension for path, dimension in value.items() if dimension is not None}


Space: TypeAlias = Annotated[dict[str, Dimension], BeforeValidator(_without_nulls)]
"""Dotted path -> dimension; a null is no dimension, and its path is left out."""
