"""`search.confirm`: how the best trials of a sweep are put to the test under new seeds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ConfirmSettings(BaseModel):
    """Train the best few again under new seeds, once the sweep is over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: Annotated[int, Field(ge=1)] = 3
    """How many of the best trials."""
    seeds: Annotated[int, Field(ge=2)] = 5
    """How often each: under as many new values of `train.seed`, the same for all."""
