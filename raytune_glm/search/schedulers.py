"""Schedulers: who stops a trial early.

Each counts in the unit of `search.budget`: optimizer steps, or device-seconds. A setting in the
other unit than that is refused.
"""

# One class a scheduler, one line in the `Scheduler` union.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raytune_glm.errors import shown

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

STEP = "step"
"""Name of the report field of the optimizer steps done."""
DEVICE_SECONDS = "device_seconds"
"""Name of the report field of the seconds since the first step, times the trial's workers."""
BESIDE = "beside"
"""Name of the report field of what the trials of a pack that were evaluated with it, after as many
steps, reached in the metric: trial number -> score."""

Unit: TypeAlias = Literal["steps", "device_seconds"]
FIELD_OF: dict[Unit, str] = {"steps": STEP, "device_seconds": DEVICE_SECONDS}
"""Unit of a budget -> the report field that counts it."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What a scheduler compares trials by."""

    metric: str
    """Report field of the score."""
    mode: Literal["min", "max"]
    unit: Unit
    """What counts as time."""
    longest: float
    """Time of the longest trial, in `unit`."""
    replace: Callable[[int, int], None]
    """Told the numbers of a trial that is stopped and of the one whose copy takes its place."""

    @property
    def field(self) -> str:
        """Report field of the time."""
        return FIELD_OF[self.unit]


class _SchedulerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stops: ClassVar[bool] = True
    """Whether it stops trials before their end."""
    wants_all_at_once: ClassVar[bool] = False
    """Whether it works on trials that all run side by side."""
    compares_with_finished: ClassVar[bool] = True
    """Whether a resumed sweep shows it the trials that ended before."""

    @property
    def period(self) -> str:
        """The setting by which it counts, with its value, for messages; empty: there is none."""
        return ""

    def needs_report_every(self) -> int | None:
        """Steps between two decisions over a trial that each want a report; none: at any report."""
        return None


class _Graceful(_SchedulerSettings):
    grace_period_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps that every trial may take before it can be stopped."""
    grace_period_device_seconds: Annotated[float, Field(gt=0)] | None = None
    """The same in device-seconds, where `search.budget` counts those."""

    @model_validator(mode="after")
    def _check(self) -> _Graceful:
        if (self.grace_period_steps is None) == (self.grace_period_device_seconds is None):
            raise ValueError(
                "exactly one of `grace_period_steps` and `grace_period_device_seconds` must be "
                f"given, but got grace_period_steps={shown(self.grace_period_steps)}, "
                f"grace_period_device_seconds={shown(self.grace_period_device_seconds)}: write the "
                "optimizer steps that every trial may take, grace_period_steps: 40 say, or with "
                "search.budget.unit=device_seconds the device-seconds"
            )
        return self

    @property
    def grace(self) -> float:
        """The grace period, in its unit."""
        grace = self.grace_period_steps or self.grace_period_device_seconds
        assert grace is not None, "exactly one is given"
        return grace

    @property
    def unit(self) -> Unit:
        """The unit that the scheduler was written for."""
        return "steps" if self.grace_period_steps is not None else "device_seconds"

    @property
    def period(self) -> str:
        """See `_SchedulerSettings.period`."""
        return f"grace_period_{self.unit}={self.grace:g}"

    def needs_reports_before(self) -> int | None:
        """The step by which a trial must have reported for the scheduler to have any effect.

        None where nobody can tell the step before the trial has run.
        """
        return self.grace_period_steps


class ASHASettings(_Graceful):
    """Asynchronous successive halving (Li et al., MLSys 2020)."""

    name: Literal["asha"] = "asha"
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """At each rung the best 1/factor of the trials go on; rungs are factor times apart."""

    def build(self, contest: Contest) -> TrialScheduler:
        """Make Ray's scheduler."""
        return _halving(self, contest, factor=self.reduction_factor, brackets=1)


class HyperBandSettings(_Graceful):
    """HyperBand (Li et al., JMLR 2018), asynchronous: several ASHA brackets side by side.

    Each trial is put into a bracket by lot; a bracket's grace period is `reduction_factor` times
    that of the one before, up to one in which nobody is stopped. Unlike synchronous HyperBand no
    trial is ever paused: a paused trial would keep or lose its device.
    """

    name: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """At each rung the best 1/factor of a bracket's trials go on; rungs are factor times apart."""

    def build(self, contest: Contest) -> TrialScheduler:
        """Make Ray's scheduler."""
        ratio = contest.longest / self.grace
        # A hair more, since log(9) / log(3) is a hair less than 2 in floating point.
        brackets = math.floor(math.log(ratio) / math.log(self.reduction_factor) + 1e-9) + 1
        return _halving(self, contest, factor=self.reduction_factor, brackets=brackets)


class MedianSettings(_Graceful):
    """Median stopping (Golovin et al., KDD 2017).

    A trial is stopped when its best score so far is worse than the median of the other trials'
    mean scores up to the same time.
    """

    name: Literal["median"] = "median"
    min_trials: Annotated[int, Field(ge=1)] = 3
    """Other trials that must have come as far before any is stopped."""

    def build(self, contest: Contest) -> TrialScheduler:
        """Make the scheduler."""
        from raytune_glm.schedulers.median import MedianScheduler

        return MedianScheduler(
            metric=contest.metric,
            mode=contest.mode,
            time_field=contest.field,
            grace_period=self.grace,
            min_trials=self.min_trials,
        )


class PBTSettings(_SchedulerSettings):
    """Population-based training (Jaderberg et al. 2017), over checkpoints of our own.

    `search.num_trials` is the population, which should run all at once. At every interval a trial
    that is among the worst ends as PRUNED, and a copy of one of the best goes on in its place from
    that one's last checkpoint, with settings of `train` changed. A copy is a trial of its own: the
    study and `trials.jsonl` know its parent, and its settings are those that it trained with from
    there on.
    """

    wants_all_at_once: ClassVar[bool] = True
    compares_with_finished: ClassVar[bool] = False

    name: Literal["pbt"] = "pbt"
    interval_steps: Annotated[int, Field(ge=1, examples=[40])]
    """Optimizer steps between two decisions over a trial, a multiple of `train.eval_every_steps`:
    it needs a report at each."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the population that counts as worst, and as best."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How often a setting is drawn anew; else a number is multiplied by 0.8 or 1.25, and a choice
    moves to a neighbour in its list."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1234
    """Seed of the changes."""

    @property
    def unit(self) -> Unit:
        """The unit that the scheduler was written for."""
        return "steps"

    @property
    def period(self) -> str:
        """See `_SchedulerSettings.period`."""
        return f"interval_steps={self.interval_steps}"

    def needs_reports_before(self) -> int | None:
        """See `ASHASettings.needs_reports_before`."""
        return self.interval_steps

    def needs_report_every(self) -> int | None:
        """Its interval: it decides at the multiples of that."""
        return self.interval_steps

    def build(self, contest: Contest) -> TrialScheduler:
        """Make the scheduler."""
        from raytune_glm.schedulers.population import PopulationScheduler

        return PopulationScheduler(
            metric=contest.metric,
            mode=contest.mode,
            time_field=contest.field,
            interval=self.interval_steps,
            quantile=self.quantile,
            seed=self.seed,
            replace=contest.replace,
        )


class FIFOSettings(_SchedulerSettings):
    """Every trial runs to its end."""

    stops: ClassVar[bool] = False

    name: Literal["fifo"] = "fifo"

    @property
    def unit(self) -> Unit | None:
        """No unit: time is not looked at."""
        return None

    def needs_reports_before(self) -> int | None:
        """No step: reports are not looked at."""
        return None

    def build(self, contest: Contest) -> TrialScheduler:
        """Make Ray's scheduler; it looks at no metric."""
        del contest
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()


def _halving(
    settings: _Graceful, contest: Contest, *, factor: float, brackets: int
) -> TrialScheduler:
    from raytune_glm.schedulers.halving import HalvingScheduler

    return HalvingScheduler(
        mates_field=BESIDE if contest.unit == "steps" else None,
        time_attr=contest.field,
        metric=contest.metric,
        mode=contest.mode,
        max_t=contest.longest,
        grace_period=settings.grace,
        reduction_factor=factor,
        brackets=brackets,
    )


Scheduler: TypeAlias = Annotated[
    ASHASettings | HyperBandSettings | MedianSettings | PBTSettings | FIFOSettings,
    Field(discriminator="name"),
]
