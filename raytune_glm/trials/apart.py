"""A trial with workers of its own in a sweep whose other trials are packed.

Ray Train runs in a thread of the trial's process. Its controller writes what the workers report to
a file beside the trial's turn; another thread reads it from there, and ends the workers once the
turn says that the trial is over. Read next: `packed`, `trainable`.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback

from raytune_glm import files
from raytune_glm.config import RunConfig, trial_run, write_trial_file
from raytune_glm.processes import ProcessMark
from raytune_glm.search.schedulers import STEP
from raytune_glm.trials.trainable import train_down_the_ladder

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25


class _Tell(ControllerCallback, ReportCallback):
    """Writes down which process waits for the workers, and what they report."""

    def __init__(self, reports: Path, controller: Path) -> None:
        self._reports = reports
        self._controller = controller

    def after_controller_start(self, train_run_context: Any) -> None:
        """Before there are workers."""
        files.write_json(self._controller, ProcessMark.of_this().as_json())

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        """Take a report of all workers."""
        told = metrics[0]
        files.append_line(self._reports, told["report"] if STEP in told else told)


class OwnWorkers:
    """The workers of one trial, from their start to the trial's end."""

    def __init__(self, config: Mapping[str, Any], turn: Path) -> None:
        """Start them.

        Args:
            config: What `trainable.run_trial` takes.
            turn: The file that says, by `over`, that they are to end.
        """
        self._config = config
        self._folder = Path(config["folder"])
        self._turn = turn
        self._reports = turn.with_suffix(".reports.jsonl")
        self._controller = turn.with_suffix(".controller.json")
        self._told: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        self._num_read = 0
        self._work = threading.Thread(target=self._train, name="own-workers", daemon=True)
        self._watch = threading.Thread(target=self._look, name="own-workers-watch", daemon=True)
        self._ended: dict[str, Any] | Exception = {"over": True}
        self._is_left = threading.Event()
        self._controller.unlink(missing_ok=True)
        self._work.start()
        self._watch.start()

    def next_report(self) -> dict[str, Any]:
        """Wait for what the trial tells next: as a pack host's, the last one `ending` or `over`.

        Raises:
            Exception: Ray Train itself failed, with what it raised; Ray Tune begins again.
        """
        told = self._told.get()
        if isinstance(told, Exception):
            raise told
        return told

    def leave(self) -> None:
        """End the workers, if they are still there."""
        self._is_left.set()
        self._watch.join()

    def _train(self) -> None:
        """Train to the trial's end; Ray Train ends with an error where its controller is killed."""
        try:
            config = self._config
            ending = train_down_the_ladder(
                trial_run(RunConfig.model_validate(config["base"]), config["overrides"]),
                config,
                listener=self._listener,
                retried=lambda changes: self._told.put({"retry": changes}),
            )
            if ending is not None:
                self._ended = {"ending": ending}
        except Exception as error:
            if not self._is_left.is_set():
                log.exception("a trial with workers of its own could not be trained")
                self._ended = error

    def _listener(self, run: RunConfig) -> _Tell:
        write_trial_file(run, self._folder, metric=self._config["metric"])
        return _Tell(self._reports, self._controller)

    def _look(self) -> None:
        while self._work.is_alive():
            self._pass_on()
            if self._is_left.wait(LOOK_EVERY_S) or self._is_over():
                self._is_left.set()
                self._end()
                return
        self._pass_on()
        self._told.put(self._ended)

    def _is_over(self) -> bool:
        return "over" in (files.read_json(self._turn) or {})

    def _pass_on(self) -> None:
        """Tell what is new; a report of the last step when the workers have gone home after it."""
        reports = files.read_lines(self._reports)
        for report in reports[self._num_read :]:
            if report.get(STEP) == report.get("total_steps", -1):
                self._work.join()
            self._told.put(report)
        self._num_read = len(reports)

    def _end(self) -> None:
        """Kill Ray Train's controller, and with it what it started: it hears nothing by itself."""
        while self._work.is_alive():
            mark = files.read_json(self._controller)
            if mark is not None:
                ProcessMark(**mark).kill()
            self._work.join(LOOK_EVERY_S)
