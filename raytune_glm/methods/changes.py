"""What was trained, as changes of the base's own weights: what a merge asks of a method.

A merge goes through a base's weights one at a time, so that it fits where the model does not. Read
next: `raytune_glm.merging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Change = Callable[["Tensor"], "Tensor"]
"""Makes the new weight of the base's; both are fp32 and of one shape."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Which weights of a base change, and how."""

    by_name: Mapping[str, Change]
    """Name of the weight in the base -> what becomes of it. All others stay."""
    ties_hold: bool
    """Whether a weight that is tied to a changed one changes with it. Where it does not, the two
    were trained apart, and the merged model keeps them apart."""
