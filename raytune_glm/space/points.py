"""Points of a space: chosen by a sampler, found again in a study, listed, or at its corners."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from raytune_glm.space.dimensions import Chooser, grid_of, located
from raytune_glm.space.variants import OneOf, Overrides, Space

MAX_CORNERS = 5_000
"""Above this many combinations of extremes, dimensions are combined two by two only. A corner takes
0.2 ms to check, and a faulty sweep file is to be answered at once."""

MAX_GRID = 100_000
"""Most points of a grid: far above what anybody trains, low enough to list."""


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


def locate(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a point of the space, as a user or a results file has it, into what a study stores.

    Args:
        space: Dotted path -> dimension.
        values: Dotted path -> value, as `choose` gives them; the variant of a `OneOf` may also be
            written `method: lora`. What is left out is left out of the result too.

    Returns:
        The chooser's name -> the value that a study stores under it.

    Raises:
        ValueError: A value is outside of its dimension, or its path is not searched.
    """
    left = dict(values)
    found: dict[str, Any] = {}
    for path, dimension in space.items():
        if isinstance(dimension, OneOf):
            found.update(dimension.locate_section(path, left))
        elif path in left:
            found[path] = located(path, dimension, left.pop(path))
    if left:
        raise ValueError(
            "\n".join(
                f"{path}: must be searched by such a trial, but {_unplaced(space, path, found)}"
                for path in left
            )
        )
    return found


def _unplaced(space: Space, path: str, found: Mapping[str, Any]) -> str:
    """Why a value is of no dimension of a trial, and what to do about it."""
    section, _, name = path.rpartition(".")
    dimension = space.get(section)
    owners = dimension.variants_with(name) if isinstance(dimension, OneOf) else []
    if owners and f"{section}.name" not in found:
        return f"its variant is not named: add {section}: {' or '.join(owners)}"
    if owners:
        return f"is one of {' and '.join(owners)}, not of {found[f'{section}.name']}: leave it out"
    known = [*space]
    for of, other in space.items():
        if isinstance(other, OneOf):
            known += [f"{of}.{inside}" for names in other.one_of.values() for inside in names]
    near = difflib.get_close_matches(path, known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'nothing'}"
    return f"is not in search.space: {hint}"


def grid(space: Space) -> list[dict[str, Any]]:
    """Every point of the space, as the chooser's names and the values that a study stores.

    Raises:
        ValueError: A dimension has infinitely many values, or there are over `MAX_GRID` points.
    """
    axes: list[list[dict[str, Any]]] = [
        dimension.grid_of_section(path)
        if isinstance(dimension, OneOf)
        else [{path: value} for value in grid_of(path, dimension)]
        for path, dimension in space.items()
    ]
    size = math.prod(len(axis) for axis in axes)
    if size > MAX_GRID:
        raise ValueError(
            f"search.space: must have at most {MAX_GRID:,} points for a grid, but has {size:,}: "
            "list fewer values, or use random"
        )
    return [
        {name: value for part in parts for name, value in part.items()}
        for parts in itertools.product(*axes)
    ]


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
