"""The disk budget of a sweep: which checkpoints go, and in which order, when they take too much."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from raytune_glm import files
from raytune_glm.checkpoint import drop_state, forget
from raytune_glm.metrics import Metric, preference
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

log = logging.getLogger(__name__)

_GB = 1e9


class DiskBudget:
    """Keeps the checkpoints of all trials within their budget, looked at between saves."""

    def __init__(self, results: ResultsFolder, budget_gb: float | None, metric: Metric) -> None:
        """Keep those in `results` within `budget_gb` (1e9 bytes); none: whatever they take."""
        self._trials = results.root / "trials"
        self._results = results
        self._budget_gb = budget_gb
        self._metric = metric

    def keep(self, finished: Iterable[TrialRow]) -> str | None:
        """Make room where too much is taken.

        States that nobody goes on from are dropped first, then the adapters of finished trials from
        the worst on, but never those of the best one.

        Args:
            finished: The trials that have ended.

        Returns:
            Why the budget cannot be kept; None where it is.
        """
        if self._budget_gb is None or self._taken() <= self._budget_gb * _GB:
            return None
        worst_first = sorted(finished, key=self._worth)
        for row in worst_first:
            drop_state(self._checkpoint(row))
        for row in worst_first[:-1]:
            if self._taken() <= self._budget_gb * _GB:
                return None
            if forget(self._checkpoint(row)):
                log.info("run.disk_budget_gb: dropped the adapters of trial %d", row.number)
        if self._taken() <= self._budget_gb * _GB:
            return None
        return (
            f"run.disk_budget_gb={self._budget_gb:g} cannot be kept: the checkpoints in "
            f"{self._trials} take {self._taken() / _GB:.3g} GB, and what is left are the best "
            "trial's and those of trials that are still running: raise it, or lower "
            "train.save_total_limit or search.max_concurrent, and give the same command to go on"
        )

    def _worth(self, row: TrialRow) -> tuple[bool, tuple[float, float], int]:
        """Sorts trials that failed first, then from the worst to the best; of equals the oldest."""
        best = row.metrics["best"]
        sound = bool(best) and row.state in (State.COMPLETE, State.PRUNED)
        return (sound, preference(best, self._metric) if best else (0.0, 0.0), -row.number)

    def _checkpoint(self, row: TrialRow) -> Path:
        return self._results.trial(row.id) / "checkpoint"

    def _taken(self) -> int:
        """Bytes of all checkpoints."""
        return sum(files.bytes_below(folder) for folder in self._trials.glob("*/checkpoint"))
