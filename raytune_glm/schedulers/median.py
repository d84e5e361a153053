"""Median stopping without pauses; see `raytune_glm.search.schedulers.MedianSettings`."""

from __future__ import annotations

import statistics
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class MedianScheduler(FIFOScheduler):
    """Stops a trial whose best score is worse than the median of the others' means."""

    def __init__(
        self,
        *,
        metric: str,
        mode: Literal["min", "max"],
        time_field: str,
        grace_period: float,
        min_trials: int,
    ) -> None:
        """Compare `metric` over the time that reports give as `time_field`."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it so
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._time_field = time_field
        self._grace_period = grace_period
        self._min_trials = min_trials
        self._curves: dict[str, list[tuple[float, float]]] = {}
        """Trial's id -> (time, score turned so that more is better) of each report."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Take a report and say whether the trial goes on."""
        if self._time_field not in result or self._metric not in result:
            return str(TrialScheduler.CONTINUE)
        now = result[self._time_field]
        own = self._curves.setdefault(trial.trial_id, [])
        own.append((now, self._sign * result[self._metric]))
        if now < self._grace_period:
            return str(TrialScheduler.CONTINUE)
        means = [
            statistics.fmean(score for time, score in curve if time <= now)
            for trial_id, curve in self._curves.items()
            if trial_id != trial.trial_id and curve[0][0] <= now <= curve[-1][0]
        ]
        if len(means) < self._min_trials:
            return str(TrialScheduler.CONTINUE)
        best = max(score for _, score in own)
        is_worse = best < statistics.median(means)
        return str(TrialScheduler.STOP if is_worse else TrialScheduler.CONTINUE)
