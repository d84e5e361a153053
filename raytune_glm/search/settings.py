"""The `search` section of a sweep file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raytune_glm.search.confirm import ConfirmSettings
from raytune_glm.search.pairs import bad_pairs
from raytune_glm.search.quantities import QUANTITIES
from raytune_glm.search.samplers import ForecastSettings, Sampler
from raytune_glm.search.schedulers import FIELD_OF, FIFOSettings, Scheduler, Unit
from raytune_glm.space import Space, locate


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Budget(_Settings):
    """What trials, and the variants of a `one_of`, may use, so that they compare at equal cost."""

    unit: Unit = "steps"
    """`steps`: optimizer steps; `device_seconds`: seconds since the first step times workers,
    evaluations included. The scheduler counts in it too."""
    per_trial: Annotated[float, Field(gt=0)] | None = None
    """A trial is complete at the first evaluation at which it has used this much; must be given for
    device_seconds. None: when it has taken its steps."""
    per_variant: Annotated[float, Field(gt=0)] | None = None
    """A variant of a `one_of` (a method, say) is not proposed again once its trials together have
    used this much; until then the one that has used least comes next."""

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if self.unit == "device_seconds" and self.per_trial is None:
            raise ValueError(
                "`per_trial` must be given for unit device_seconds, but is not there: write the "
                "device-seconds after which a trial is complete"
            )
        return self

    @property
    def field(self) -> str:
        """The report field that counts the unit."""
        return FIELD_OF[self.unit]


class Quota(_Settings):
    """What each variant of a `one_of` (a method, say) gets before the search may leave it aside."""

    trials: Annotated[int, Field(ge=0)] = 0
    """Fewest trials of each variant; those that it still lacks are proposed first."""
    complete: Annotated[int, Field(ge=0)] = 0
    """Of those, how many no scheduler stops: slow starters come to their end this often."""


class SearchSettings(_Settings):
    """What to search, how many trials, who proposes them and who stops them."""

    space: Space = Field(default_factory=dict)
    """Dotted path of a setting -> the values it may take; empty: every trial is the file as it is.
    On the command line `search.space.method.rank.choice=[4, 8]` gives an entry other values, and a
    null takes one out: `search.space.method.rank=null`, or a variant,
    `search.space.method.one_of.full=null`."""
    num_trials: Annotated[int, Field(ge=1)] = 1
    """Trials of the sweep, stopped and failed ones counted in."""
    metric: str = "eval_loss"
    """What the sweep optimizes, by its name in `raytune_glm.metrics.METRICS`, measured on dev."""
    objectives: tuple[str, ...] = ()
    """What is traded against `metric`: other metrics, forgetting (on `data.retain`),
    trainable_parameters, seconds, device_seconds or peak_memory_bytes. The leaderboard marks the
    Pareto front; schedulers stop trials by `metric` alone."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Metric or other quantity -> the worst value that is acceptable: the most, or of a metric
    where more is better the least. A trial beyond one is INFEASIBLE and cannot win."""
    sampler: Sampler = ForecastSettings()
    """Who proposes trials."""
    scheduler: Scheduler = FIFOSettings()
    """Who stops trials early."""
    budget: Budget = Budget()
    """What trials and variants may use."""
    quota: Quota = Quota()
    """What each variant gets at least."""
    start_with: tuple[dict[str, Any], ...] = ()
    """Known-good settings to try first: dotted path -> value each, inside the space; what one
    leaves out is proposed."""
    warm_start: tuple[Path, ...] = ()
    """Results folders of earlier sweeps on the same model, data and metric: their trials that fit
    the space are told to the sampler at the start."""
    storage: str | None = None
    """Where the study is kept. None: `study.db` in the results folder, SQLite; `journal`:
    `study.journal` there, for folders on a network disk; else any storage URL of Optuna."""
    confirm: ConfirmSettings | None = None
    """Repeats of the best trials under new seeds, by which the winner is chosen; none: the best
    trial wins."""
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most trials at a time; none: as many as the cluster has room for."""
    time_budget_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which running trials are stopped and the sweep ends with what it has."""

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _known(name)
            if names.count(name) > 1:
                raise ValueError(f"must not list an objective twice, but got {name} again")
        return names

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        for name, limit in limits.items():
            _known(name)
            quantity = QUANTITIES[name]
            is_min = quantity.direction == "min"
            if limit <= quantity.ideal if is_min else limit > quantity.ideal:
                rule = f"above {quantity.ideal:g}" if is_min else f"at most {quantity.ideal:g}"
                raise ValueError(
                    f"{name} must be {rule}, or no trial can meet it, but got {name}={limit:g}"
                )
        return limits

    @model_validator(mode="after")
    def _check_pairs(self) -> SearchSettings:
        faults = [*bad_pairs(self), *self._bad_starts()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _bad_starts(self) -> Iterator[str]:
        for place, values in enumerate(self.start_with):
            try:
                locate(self.space, values)
            except ValueError as error:
                yield from (f"search.start_with.{place}: {line}" for line in str(error).split("\n"))
        if len(self.start_with) > self.num_trials:
            yield (
                "search.num_trials must be at least the number of settings in search.start_with, "
                f"but got num_trials={self.num_trials} with {len(self.start_with)} of them"
            )

    @property
    def all_objectives(self) -> tuple[str, ...]:
        """The metric, and what is traded against it."""
        return (self.metric, *self.objectives)

    def is_over_budget(self, report: Mapping[str, Any]) -> bool:
        """Whether a trial that reported this has used all that it may."""
        most = self.budget.per_trial
        return most is not None and report[self.budget.field] >= most


def _known(name: str) -> None:
    if name not in QUANTITIES:
        raise ValueError(f"must be one of {', '.join(QUANTITIES)}, but got {name!r}")
