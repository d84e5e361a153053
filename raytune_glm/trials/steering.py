"""Carrying out the orders that come to a running sweep: stop, clone, pause, resume, add.

What is done is written into the study with its lineage, so that it is there after a resume and for
whoever looks at the study later. Read next: `scheduling`, which makes Ray Tune heed it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from raytune_glm.checkpoint import drop_state, has_state
from raytune_glm.config import RunConfig, trial_run
from raytune_glm.errors import ConfigError, UserError
from raytune_glm.search.pairs import CHANGEABLE
from raytune_glm.trials import orders
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.orders import Answer, Order
from raytune_glm.trials.progress import Progress, format_params
from raytune_glm.trials.records import ResultsFolder

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Seconds between two looks for orders."""


class Steering:
    """The driver's ear for orders."""

    def __init__(
        self,
        results: ResultsFolder,
        ledger: Ledger,
        base: RunConfig,
        progress: Progress,
        *,
        confirmed: Path | None = None,
    ) -> None:
        """Steer the sweep of `ledger`.

        Args:
            results: The sweep's folder.
            ledger: Its trials.
            base: The run that trials change values of.
            progress: The terminal.
            confirmed: Where the trials are repeats: the folder of the sweep that they confirm.
                Orders come there, and only a pause is still possible.
        """
        self._root = confirmed or results.root
        self._is_confirming = confirmed is not None
        self._results = results
        self._ledger = ledger
        self._base = base
        self._progress = progress
        self._next_poll = 0.0
        self.is_paused = False
        """Whether no trial is to begin and running ones are to wait."""
        self.to_stop: set[int] = set()
        """Numbers of the trials to end now."""
        self.waiting: set[int] = set()
        """Numbers of running trials that are being set aside until the pause is over."""
        self._actions: dict[str, Callable[[Order], str]] = {
            "stop": self._stop,
            "clone": self._clone,
            "pause": self._pause,
            "resume": self._resume,
            "add": self._add,
        }
        self._flag.unlink(missing_ok=True)

    @property
    def _flag(self) -> Path:
        return self._root / orders.PAUSED

    def poll(self) -> None:
        """Carry out the orders that wait."""
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + POLL_S
        for name, order in orders.take(self._root):
            try:
                answer = Answer(done=True, text=self._carry_out(order))
            except UserError as error:
                answer = Answer(done=False, text=str(error))
            log.info("%s: %s", order.action, answer.text)
            if answer.done:
                self._progress.steered(answer.text)
            orders.answer(self._root, name, answer)

    def _carry_out(self, order: Order) -> str:
        if self._is_confirming and order.action not in ("pause", "resume"):
            raise ConfigError(
                f"a sweep must be searching for {order.action}, but this one's search is over and "
                "its best trials are trained again under new seeds: pause, resume and Ctrl-C are "
                "possible now; for more trials let it end, then give its command again with a "
                "higher search.num_trials"
            )
        return self._actions[order.action](order)

    def _stop(self, order: Order) -> str:
        number = self._known(order)
        if (row := self._ledger.end_waiting(number)) is not None:
            drop_state(self._results.trial(row.id) / "checkpoint")
            self._progress.finished(row, self._ledger.live.values())
            return f"trial {number}, which was waiting, has ended with what it had reached"
        if number not in self._ledger.live:
            raise ConfigError(f"a trial must run to be stopped, but trial {number} does not")
        self._ledger.note({"action": "stop"}, number=number)
        self.to_stop.add(number)
        return f"trial {number} ends with what it has reached"

    def _clone(self, order: Order) -> str:
        number = self._known(order)
        params = {**self._ledger.params_of(number), **order.changes}
        run = trial_run(self._base, params)
        model = run.model.inspect()
        run.method.check(model.shape, model.family)
        if order.warm:
            self._refuse_warm(order, number)
        clone = self._ledger.copy(number, params, warm=order.warm)
        self._ledger.note(order.model_dump(mode="json"), number=clone.number)
        self._progress.grew(self._ledger.num_trials)
        start = f" from step {clone.last_step}" if order.warm else ""
        changed = f" with {format_params(order.changes)}" if order.changes else ""
        return f"trial {clone.number} is a clone of trial {number}{changed}{start}"

    def _refuse_warm(self, order: Order, number: int) -> None:
        """A clone that goes on from a checkpoint must have one, and be able to read it."""
        allowed = [f"train.{name}" for name in CHANGEABLE]
        other = [path for path in order.changes if path not in allowed]
        if other:
            raise ConfigError(
                f"a warm clone may change {', '.join(allowed)}, but got {', '.join(other)}: leave "
                "out --warm, so that it begins at step 0"
            )
        if not has_state(self._results.trial(f"{number:04d}") / "checkpoint"):
            raise ConfigError(
                f"a warm clone must have a checkpoint to go on from, but trial {number} has none: "
                "running trials do, from their first evaluation on; leave out --warm"
            )

    def _pause(self, order: Order) -> str:
        self.is_paused = True
        self._flag.touch()
        self._ledger.note({"action": "pause"})
        running = len(self._ledger.live)
        return f"paused: {running} running trial(s) wait after their next evaluation"

    def _resume(self, order: Order) -> str:
        if not self.is_paused:
            raise ConfigError("a sweep must be paused to be resumed, but this one is not")
        self.is_paused = False
        self._flag.unlink(missing_ok=True)
        self._ledger.note({"action": "resume"})
        return "resumed"

    def _add(self, order: Order) -> str:
        self._ledger.add(order.count)
        self._ledger.note({"action": "add", "count": order.count})
        self._progress.grew(self._ledger.num_trials)
        return f"{order.count} more trial(s), {self._ledger.num_trials} in all"

    def _known(self, order: Order) -> int:
        assert order.trial is not None, "the command asks for it"
        if not self._ledger.has(order.trial):
            raise ConfigError(f"there is no trial {order.trial} in this sweep: see status")
        return order.trial
