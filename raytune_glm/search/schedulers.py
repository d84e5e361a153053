"""Schedulers: who stops a trial early. One class a scheduler, one line in the `Scheduler` union."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

STEP = "step"
"""Name of the report field that schedulers count time in: optimizer steps done."""


class ASHASettings(BaseModel):
    """Asynchronous successive halving (Li et al., MLSys 2020)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["asha"] = "asha"
    grace_period_steps: Annotated[int, Field(ge=1)]
    """Optimizer steps that every trial may take before it can be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """At each rung the best 1/factor of the trials go on; rungs are factor times apart."""

    def build(self, *, metric: str, mode: str, max_steps: int) -> TrialScheduler:
        """Make Ray's scheduler.

        Args:
            metric: Name of the report field to compare.
            mode: `min` or `max`.
            max_steps: Steps of the longest trial of the sweep.
        """
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            time_attr=STEP,
            metric=metric,
            mode=mode,
            max_t=max_steps,
            grace_period=self.grace_period_steps,
            reduction_factor=self.reduction_factor,
        )

    def needs_reports_before(self) -> int | None:
        """The step by which a trial must have reported for the scheduler to have any effect."""
        return self.grace_period_steps


class FIFOSettings(BaseModel):
    """Every trial runs to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["fifo"] = "fifo"

    def build(self, *, metric: str, mode: str, max_steps: int) -> TrialScheduler:
        """Make Ray's scheduler; it looks at no metric."""
        del metric, mode, max_steps
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()

    def needs_reports_before(self) -> int | None:
        """No step: reports are not looked at."""
        return None


Scheduler: TypeAlias = Annotated[ASHASettings | FIFOSettings, Field(discriminator="name")]
