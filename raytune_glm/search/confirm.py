"""`search.confirm`: how the best trials of a sweep are put to the test under new seeds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

FEWEST_SEEDS = 2
"""Below that there is no interval."""


class ConfirmSettings(BaseModel):
    """Train the best few again under new seeds, once the sweep is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: Annotated[int, Field(ge=1)] = 3
    """How many of the best trials; at least 1, and 2 to compare the best with another."""
    seeds: Annotated[int, Field(ge=FEWEST_SEEDS)] = 5
    """How often each: under as many new values of `train.seed`, the same for all; at least 2. The
    intervals at 95 % are 12.7 standard errors to each side with 2, 4.3 with 3, 2.8 with 5."""
