"""The bridge from the ledger to Ray Tune: a `Searcher` that proposes, a `Callback` that listens.

Ray's own OptunaSearch takes a trial that a scheduler stopped for a complete one, and leaves the
last report of it out; a callback sees every report and every end. Read next: `tuner`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raytune_glm.checkpoint import drop_state
from raytune_glm.endings import NO_ROOM
from raytune_glm.search.schedulers import STEP
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.ramp import Ramp
from raytune_glm.trials.records import State
from raytune_glm.trials.steering import Steering

log = logging.getLogger(__name__)

TrialConfig = dict[str, Any]


class LedgerSearcher(Searcher):
    """Gives Ray Tune the trials that the ledger proposes."""

    def __init__(
        self,
        ledger: Ledger,
        steering: Steering,
        config_of: Callable[[str, Any], TrialConfig],
        *,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Propose from `ledger`.

        Args:
            ledger: The sweep's ledger.
            steering: Says whether trials may begin.
            config_of: Makes a trial's configuration from its id and its values.
            has_room: Says whether a further trial has a place.
        """
        super().__init__()
        self._ledger = ledger
        self._steering = steering
        self._config_of = config_of
        self._has_room = has_room
        self._listens = False
        self._interrupted = False

    def suggest(self, trial_id: str) -> TrialConfig | None:
        """Propose a trial, or say that there are no more, or none now."""
        # While no trial lives, Ray Tune asks here again and again and calls nothing else.
        self._steering.poll()
        if self._steering.is_paused:
            return self._none_while_paused()
        if self._ledger.num_left == 0:
            # A running trial may yet be copied: only when none is left are there no more.
            is_over = not self._ledger.live
            return Searcher.FINISHED if is_over else None  # type: ignore[return-value]  # Ray's word
        if not self._has_room():
            return None
        live = self._ledger.propose()
        return {
            "number": live.number,
            "from_step": live.parent["step"] if live.parent else 0,
            **self._config_of(live.id, live.params),
        }

    def _none_while_paused(self) -> TrialConfig | None:
        """None, until Ctrl-C: Ray Tune does not look for it while it waits for a trial."""
        if not self._listens:
            self._listens = True
            tunes = signal.getsignal(signal.SIGINT)

            def interrupt(number: int, frame: FrameType | None) -> None:
                self._interrupted = True
                if callable(tunes):
                    tunes(number, frame)

            signal.signal(signal.SIGINT, interrupt)
        return Searcher.FINISHED if self._interrupted else None  # type: ignore[return-value]  # Ray's word

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: `LedgerCallback` hears of ends in full."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study on disk is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study on disk is the state."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        # The Tuner pickles itself for its own way of resuming, which this project does not use.
        return Searcher, ()


class Brake(Stopper):
    """Stops all trials of a sweep once there is a reason to."""

    reason: str | None = None
    """What to tell the user; none: all is well."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Say of no trial alone that it should stop."""
        return False

    def stop_all(self) -> bool:
        """Whether all are to stop now."""
        return self.reason is not None


def remind(scheduler: TrialScheduler, ledger: Ledger) -> None:
    """Show a scheduler the trials that ended before a resume, whom it is to compare with.

    Args:
        scheduler: As it was built, having seen nothing.
        ledger: Knows every trial and its reports.
    """
    no_controller: Any = None  # the schedulers that remember ask it for nothing
    for number in sorted(ledger.rows):
        trial = Trial("finished before", stub=True)
        trial.config = {"number": number}
        scheduler.on_trial_add(no_controller, trial)
        reports = ledger.reports_of(number)
        for report in reports:
            scheduler.on_trial_result(no_controller, trial, report)
        scheduler.on_trial_complete(no_controller, trial, reports[-1] if reports else {})


class LedgerCallback(Callback):
    """Tells the ledger and the terminal what Ray Tune's trials report and how they end."""

    def __init__(
        self,
        ledger: Ledger,
        steering: Steering,
        progress: Progress,
        budget: DiskBudget,
        *,
        on_end: Callable[[str], None],
        on_leave: Callable[[str], None],
        ramp: Ramp,
        waits: Callable[[str], bool] = lambda trial_id: False,
    ) -> None:
        """Tell `ledger` and `progress`, and let `steering` look for orders.

        Args:
            ledger: The sweep's ledger.
            steering: Looks for orders from outside.
            progress: The terminal.
            budget: What checkpoints may take.
            on_end: Told the id of each trial that gives its place back.
            on_leave: Told the id of each trial that leaves its host for workers of its own.
            ramp: Told of each trial that gets a process, or gives one back.
            waits: Says of a trial's id whether it waits for a device.
        """
        self._on_leave = on_leave
        self._waits = waits
        self._ramp = ramp
        self._on_end = on_end
        self._ledger = ledger
        self._steering = steering
        self._progress = progress
        self._budget = budget
        self.brake = Brake()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Ray Tune looks for news, some ten times a second."""
        self._steering.poll()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process is up."""
        self._ramp.started(trial.config["number"])
        live = self._ledger.live[trial.config["number"]]
        if self._waits(live.id):
            self._progress.queued(live)
        else:
            self._progress.started(live)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported an evaluation, or why it ends."""
        number = trial.config["number"]
        if STEP in result:
            self._ledger.report(number, result["report"])
            self._progress.reported(self._ledger.live.values())
            self._keep_budget()
        elif "retry" in result:
            self._progress.retried(number, result["retry"])
            if result.get("needs_workers"):
                self._leave_host(trial)

    def _leave_host(self, trial: Trial) -> None:
        """Have a trial wait for workers of its own, in another process too, should this one die."""
        trial.config.pop("door", None)
        live = self._ledger.live[trial.config["number"]]
        self._on_leave(live.id)
        if self._waits(live.id):
            self._progress.queued(live)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process died; Ray Tune starts another, which goes on from the checkpoint."""
        self._progress.restarted(trial.config["number"])

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial came to its end, or the scheduler stopped it."""
        ending = trial.last_result.get("ending")
        number = trial.config["number"]
        self._ramp.ended(number)
        if number in self._steering.waiting:
            self._steering.waiting.discard(number)
            self._on_end(self._ledger.suspend(number).id)
            self._progress.set_aside(number)
        elif ending is not None:
            self._end(trial, ending)
        elif self._ledger.live[number].progress >= 1:
            self._finish(trial, State.COMPLETE)
        else:
            self._finish(trial, State.PRUNED)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process died more often than allowed, or raised what nobody expected."""
        self._ramp.ended(trial.config["number"])
        # Ray's `get_error` looks where the file is only copied to later.
        file = trial.error_file
        text = Path(file).read_text(encoding="utf-8") if file else "its process died"
        self._finish(trial, State.FAILED, text.strip())

    def _end(self, trial: Trial, ending: dict[str, str]) -> None:
        """End a trial as it says itself; for want of disk all of the sweep, to go on with later."""
        if ending["state"] == NO_ROOM:
            self._stop(ending["error"])
        else:
            state = State(ending["state"])
            self._finish(trial, state, ending.get("error"), note=ending.get("note"))

    def _stop(self, reason: str) -> None:
        if self.brake.reason is None:
            self.brake.reason = reason
            self._progress.stopped(reason)

    def _finish(
        self, trial: Trial, state: State, error: str | None = None, *, note: str | None = None
    ) -> None:
        row = self._ledger.finish(trial.config["number"], state, error, note=note)
        drop_state(Path(trial.config["folder"]) / "checkpoint")
        self._on_end(row.id)
        self._progress.finished(row, self._ledger.live.values())
        self._keep_budget()

    def _keep_budget(self) -> None:
        over = self._budget.keep(self._ledger.rows.values())
        if over is not None:
            self._stop(over)

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()
