"""What a tracker is. Read next: `tensorboard`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.metrics import METRICS

log = logging.getLogger(__name__)

RUN_IDS = "tracked_as.json"
"""File in a trial's folder: tracker -> what it knows the trial by, so that a resume finds it."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A trial, as trackers are told of it."""

    sweep: str
    """Name of the sweep."""
    folder: Path
    """The trial's folder; its name is the trial's."""
    settings: Mapping[str, Any]
    """Dotted path -> value of the trial's configuration."""

    def run_id(self, tracker: str) -> str | None:
        """What a tracker has known the trial by since an earlier start of it, if there was one."""
        return self._run_ids().get(tracker)

    def remember(self, tracker: str, run_id: str) -> None:
        """Keep what a tracker knows the trial by, for a resume to find."""
        files.write_json(self.folder / RUN_IDS, {**self._run_ids(), tracker: run_id})

    def _run_ids(self) -> dict[str, str]:
        return files.read_json(self.folder / RUN_IDS) or {}


class Tracker(ABC):
    """Takes a trial's figures. One process of a trial, its rank 0, has trackers.

    A trial that is resumed tells all its figures again: those of steps before the resume are the
    same, and a tracker must not show them twice.
    """

    @abstractmethod
    def __init__(self, trial: Tracked) -> None:
        """Open the trial's record, or make it."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures by name, measured after `step` optimizer steps; steps never go back."""

    @abstractmethod
    def close(self) -> None:
        """Say that the trial is over."""


class Trackers:
    """A trial's trackers. One that fails is left out from then on; the trial goes on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """Tell all of `trackers`."""
        self._trackers = list(trackers)

    def log_step(self, line: Mapping[str, Any]) -> None:
        """Take a line of `train.jsonl`."""
        names = ("loss", "learning_rate", "grad_norm")
        values = {f"train/{name}": line[name] for name in names if line[name] is not None}
        self._log(line["step"], values)

    def log_evaluation(self, report: Mapping[str, Any]) -> None:
        """Take an evaluation, as it is reported."""
        dev = {f"dev/{name}": report[name] for name in METRICS if name in report}
        names = ("epoch", "tokens_per_second", "skipped_steps", "peak_memory_bytes")
        self._log(report["step"], {**dev, **{f"train/{name}": report[name] for name in names}})

    def log_again(
        self, lines: Iterable[Mapping[str, Any]], reports: Iterable[Mapping[str, Any]]
    ) -> None:
        """Take all that was measured before a resume, in the order of steps."""
        waiting = sorted(reports, key=lambda report: report["step"], reverse=True)
        for line in lines:
            while waiting and waiting[-1]["step"] < line["step"]:
                self.log_evaluation(waiting.pop())
            self.log_step(line)
        for report in reversed(waiting):
            self.log_evaluation(report)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.log(step, values)
            except Exception:  # a service that is away raises whatever its client likes
                log.exception("%s is left out from step %d on", type(tracker).__name__, step)
                self._trackers.remove(tracker)

    def close(self) -> None:
        """See `Tracker.close`."""
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception:  # the same
                log.exception("%s could not be closed", type(tracker).__name__)
