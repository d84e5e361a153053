"""ASHA and HyperBand over trials that report together; see `raytune_glm.search.schedulers`."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler


class HalvingScheduler(AsyncHyperBandScheduler):
    """Ray's, but that a trial is held to all that report with it, in whatever order they come.

    Ray's decides over each report by those before it: of trials that report at the same moment the
    first goes on whatever it reached, and how many of the others do is a matter of their order.
    """

    def __init__(self, *, mates_field: str | None, **settings: Any) -> None:
        """Take what Ray's takes.

        Args:
            mates_field: Field of a report that has what trials that report with it, after as long,
                reached in the metric: pairs of trial number and score; none: nothing tells it.
            settings: Those of Ray's.
        """
        super().__init__(**settings)
        self._mates_field = mates_field
        self._ids: dict[int, str] = {}
        """Ray's id of the trial of a number."""
        self._announced: set[tuple[str, float]] = set()
        """Trials whose score at a rung is known from others, and not yet decided over."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Put a trial into a bracket."""
        super().on_trial_add(tune_controller, trial)
        self._ids[trial.config["number"]] = trial.trial_id

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Take a report, and what it says of others, and say whether the trial goes on."""
        bracket = self._trial_info[trial.trial_id]
        now = result.get(self._time_attr, 0)
        beside = result.get(self._mates_field, []) if self._mates_field else []
        reached = [rung for rung in bracket._rungs if now >= rung[0]]
        for milestone, recorded in reached[:1]:  # the highest: it is the one that is decided at
            if (trial.trial_id, milestone) in self._announced:
                self._announced.remove((trial.trial_id, milestone))
                del recorded[trial.trial_id]
            for number, score in beside:
                mate = self._ids.get(int(number), "")
                if self._trial_info.get(mate) is bracket and mate not in recorded:
                    recorded[mate] = self._metric_op * score
                    self._announced.add((mate, milestone))
        return str(super().on_trial_result(tune_controller, trial, result))
