"""The scheduler of a sweep that can be resumed and steered, around the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search.schedulers import STEP
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.steering import Steering


class SteeredScheduler(TrialScheduler):
    """Passes on what is new, and what is ordered from outside comes first."""

    def __init__(
        self,
        inner: RuledScheduler,
        ledger: Ledger,
        steering: Steering,
        *,
        most_kept: int = 0,
        call_off: Callable[[str], bool] | None = None,
    ) -> None:
        """Ask `inner`, unless `steering` says otherwise.

        Args:
            inner: Decides over reports.
            ledger: The sweep's trials.
            steering: What was ordered from outside.
            most_kept: Processes of trials that have ended to keep for the next ones.
            call_off: Ends a trial that waits for its turn on a device, by its id, and says whether
                it did; given where trials are packed.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._most_kept = most_kept
        self._call_off = call_off
        self._inner = inner
        self._ledger = ledger
        self._steering = steering
        self._judged: set[int] = set()
        """Numbers of the trials that `inner` has decided over."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide over a report; one that a trial tells again after a resume was decided over."""
        if STEP not in result:
            return str(TrialScheduler.CONTINUE)
        number = trial.config["number"]
        if number in self._steering.to_stop:
            self._steering.to_stop.discard(number)
            return str(TrialScheduler.STOP)
        known = self._ledger.live[number].last_step
        if result[STEP] <= known and number in self._judged:
            return str(TrialScheduler.CONTINUE)
        decision = self._inner.on_trial_result(tune_controller, trial, result)
        if result[STEP] < known:
            return str(TrialScheduler.CONTINUE)
        self._judged.add(number)
        if decision == TrialScheduler.CONTINUE and self._must_wait(result):
            self._steering.waiting.add(number)
            return str(TrialScheduler.STOP)
        return decision

    def _must_wait(self, result: dict[str, Any]) -> bool:
        return self._steering.is_paused and result[STEP] < result["total_steps"]

    def choose_trial_to_run(self, tune_controller: Any, **kwargs: Any) -> Trial | None:
        """Stop what is to be stopped, then pass on; but no trial that has not begun is chosen.

        A packed trial is stopped at its next report, or while it waits for its turn: its process,
        which waits for that, is given to another trial.

        Ray Tune starts trials that have not begun by itself, the oldest first. One that is chosen
        beside that is given the next process that gets free, and its own, which is starting, is
        ended: with short trials no further process would ever come up.
        """
        for trial in list(tune_controller.get_live_trials()) if self._steering.to_stop else ():
            number = trial.config["number"]
            if number not in self._steering.to_stop:
                continue
            if self._call_off is None:
                self._steering.to_stop.discard(number)
                tune_controller.stop_trial(trial)
            elif self._call_off(self._ledger.live[number].id):
                self._steering.to_stop.discard(number)
        chosen = self._inner.choose_trial_to_run(tune_controller, **kwargs)
        return None if chosen is None or chosen.status == Trial.PENDING else chosen

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Pass on."""
        return self._inner.set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on; with the first trial, have processes kept."""
        if self._most_kept:
            _keep_processes(tune_controller, trial, self._most_kept)
            self._most_kept = 0
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        """Pass on."""
        return self._inner.debug_string()

    def __reduce__(self) -> tuple[type[FIFOScheduler], tuple[()]]:
        # The Tuner pickles itself for its own way of resuming, which this project does not use.
        return FIFOScheduler, ()


def _keep_processes(tune_controller: Any, trial: Trial, count: int) -> None:
    """Have Ray Tune keep up to `count` processes of trials that end at the same moment.

    By itself it keeps one, since the trials to come are proposed only then, ends the others and
    starts new ones: seconds of a core each. It has no public word for this, so where a version of
    Ray has no such cache nothing is done.
    """
    controller = getattr(tune_controller, "_tune_controller", None)
    cache = getattr(controller, "_actor_cache", None)
    if cache is not None:
        cache.increase_max(trial.placement_group_factory, by=count)
