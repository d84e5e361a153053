"""The `search` section of a sweep file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from raytune_glm.search.samplers import Sampler, TPESettings
from raytune_glm.search.schedulers import FIFOSettings, Scheduler
from raytune_glm.space import Space


class SearchSettings(BaseModel):
    """What to search, how many trials, who proposes them and who stops them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    space: Space = Field(default_factory=dict)
    """Dotted path of a setting -> the values it may take; a null takes a setting out of the search.
    Empty: every trial is the file as it is."""
    num_trials: Annotated[int, Field(ge=1)] = 1
    """Trials of the sweep, stopped and failed ones counted in."""
    metric: str = "eval_loss"
    """What the sweep optimizes, by its name in `raytune_glm.metrics.METRICS`, measured on dev."""
    sampler: Sampler = TPESettings()
    """Who proposes trials."""
    scheduler: Scheduler = FIFOSettings()
    """Who stops trials early."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most trials at a time; none: as many as the cluster has room for."""
    time_budget_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which running trials are stopped and the sweep ends with what it has."""
