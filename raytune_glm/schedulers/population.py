"""Population-based training by replacement; see `raytune_glm.search.schedulers.PBTSettings`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class PopulationScheduler(FIFOScheduler):
    """Stops the worst trials and names a better one for each, whose copy takes its place."""

    def __init__(
        self,
        *,
        metric: str,
        mode: Literal["min", "max"],
        time_field: str,
        interval: float,
        quantile: float,
        seed: int,
        replace: Callable[[int, int], None],
    ) -> None:
        """Decide over each trial once every `interval`.

        Args:
            metric: Report field of the score.
            mode: Whether less or more is better.
            time_field: Report field of the time.
            interval: Time between two decisions over a trial.
            quantile: Share of the population that is worst, and best.
            seed: Seed of the choice among the best.
            replace: Told the numbers of a trial that is stopped and of the one to copy.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it so
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._time_field = time_field
        self._interval = interval
        self._quantile = quantile
        self._random = random.Random(seed)
        self._replace = replace
        self._scores: dict[int, float] = {}
        """Number of a living trial -> its last score, turned so that more is better."""
        self._due: dict[int, float] = {}
        """Number of a living trial -> the time of the next decision over it."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Take a report and say whether the trial goes on."""
        if self._time_field not in result or self._metric not in result:
            return str(TrialScheduler.CONTINUE)
        number, now = trial.config["number"], result[self._time_field]
        self._scores[number] = self._sign * result[self._metric]
        # A copy starts in its parent's middle: the first decision over it is an interval later.
        due = self._due.setdefault(number, _next_multiple(now, self._interval, at_least=True))
        if now < due:
            return str(TrialScheduler.CONTINUE)
        self._due[number] = _next_multiple(now, self._interval, at_least=False)
        donors = self._donors_for(number)
        if not donors:
            return str(TrialScheduler.CONTINUE)
        self._forget(number)
        self._replace(number, self._random.choice(donors))
        return str(TrialScheduler.STOP)

    def _donors_for(self, number: int) -> list[int]:
        """The best trials, where `number` is among the worst; else none."""
        order = sorted(self._scores, key=lambda other: (self._scores[other], -other))
        size = math.floor(len(order) * self._quantile)
        if number not in order[:size]:
            return []
        return [donor for donor in order[-size:] if self._scores[donor] > self._scores[number]]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial came to its end: its place is not filled again, nor is it copied."""
        self._forget(trial.config["number"])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial failed."""
        self._forget(trial.config["number"])

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial was taken out."""
        self._forget(trial.config["number"])

    def _forget(self, number: int) -> None:
        self._scores.pop(number, None)
        self._due.pop(number, None)


def _next_multiple(time: float, interval: float, *, at_least: bool) -> float:
    """The first multiple of an interval from a time on (`at_least`), or after it."""
    count = math.ceil(time / interval) if at_least else math.floor(time / interval) + 1
    return max(1, count) * interval
