"""The search space: dotted paths of the run's configuration, each with the values it may take.

A sweep file writes it under `search.space`:

    method.rank: {choice: [4, 8, 16]}
    train.learning_rate: {log_range: [1e-4, 1e-2]}
    method: {one_of: {lora: {rank: {int_range: [2, 64], log: true}}}}

Every kind of dimension is a class in `dimensions` and one line in its table; `variants` has the one
that holds others, `points` what is done with a whole space. Nothing here knows Optuna's or Ray's
types: a dimension asks a `Chooser` (Optuna's trial is one) for a value. Read next: `dimensions`.
"""

from raytune_glm.space.dimensions import Choice, Chooser, IntRange, LogRange, Range
from raytune_glm.space.points import MAX_CORNERS, MAX_GRID, choose, corners, grid, locate
from raytune_glm.space.variants import DIMENSIONS, Dimension, OneOf, Overrides, Space

__all__ = [
    "DIMENSIONS",
    "MAX_CORNERS",
    "MAX_GRID",
    "Choice",
    "Chooser",
    "Dimension",
    "IntRange",
    "LogRange",
    "OneOf",
    "Overrides",
    "Range",
    "Space",
    "choose",
    "corners",
    "grid",
    "locate",
]
