"""A run that is trained alone: Ray Train's workers, watched through the files that they write.

Ray Train waits in a thread, so that this one is free for the terminal and hears Ctrl-C itself. Read
next: `trainable`, `watch`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from raytune_glm import files, ladder
from raytune_glm.config import SweepConfig, run_of
from raytune_glm.endings import ENDING, NO_ROOM, Ending
from raytune_glm.metrics import METRICS, preference
from raytune_glm.search.schedulers import STEP
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.records import ResultsFolder, State, TrialRow, trial_row
from raytune_glm.trials.trainable import train_down_the_ladder
from raytune_glm.trials.watch import REPORTS, Watch

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5


class ReportsToFile(UserCallback):
    """Keeps what the workers report; lives in Ray Train's own process."""

    def __init__(self, root: Path) -> None:
        """Write to the results folder `root`."""
        self._root = root

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Take a report of all workers; what a resumed run reports again is not taken twice."""
        told = metrics[0]
        if "ending" in told:
            files.write_json(self._root / ENDING, told["ending"])
            return
        path = self._root / REPORTS
        known = files.read_lines(path)
        if not known or told[STEP] > known[-1][STEP]:
            files.append_line(path, told["report"])


def run_alone(
    run: SweepConfig, results: ResultsFolder, watch: Watch, *, placement: Placement
) -> TrialRow:
    """Train a run from its last checkpoint, or from the start, to its end.

    Args:
        run: The run; of its `search` only the metric counts.
        results: Its folder.
        watch: The terminal.
        placement: What a worker takes.

    Returns:
        How it ended.

    Raises:
        KeyboardInterrupt: Ctrl-C; the workers end when Ray is shut down.
    """
    started_at = time.time()
    # A run that did not fit or diverged is tried again when the user asks again.
    (results.root / ENDING).unlink(missing_ok=True)
    endings: list[Ending | None] = []
    thread = threading.Thread(
        target=lambda: endings.append(_train(run, results, watch, placement)), daemon=True
    )
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_EVERY_S)
        watch.look()
    [ending] = endings
    state, error = (State.COMPLETE, None) if ending is None else _told(ending)
    reports = files.read_lines(results.root / REPORTS)
    return trial_row(
        reports,
        best=_best(reports, run.search.metric),
        chosen_at=started_at,
        number=0,
        id=run.run.name,
        state=state,
        params={},
        ladder=ladder.changes_of(results.root),
        error=error,
    )


def _train(
    run: SweepConfig, results: ResultsFolder, watch: Watch, placement: Placement
) -> Ending | None:
    """Why the run ended before its last step; None where it came to it."""
    config = {
        "results": str(results.root),
        "folder": str(results.root),
        "resources": placement.per_worker,
        "metric": run.search.metric,
        "data_cache": str(results.data),
        "ray_folder": str(results.root / "ray"),
        "from_step": 0,
    }
    try:
        return train_down_the_ladder(
            run_of(run),
            config,
            listener=lambda _: ReportsToFile(results.root),
            retried=watch.retried,
        )
    except Exception as error:  # whatever it was, it is told as the end of the run
        log.exception("the run could not be trained")
        return {"state": "FAILED", "error": str(error).strip()}


def _told(ending: Ending) -> tuple[State, str]:
    # For want of disk nothing is lost: the same command goes on once there is room.
    state = State.FAILED if ending["state"] == NO_ROOM else State(ending["state"])
    return state, ending["error"]


def _best(reports: list[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The report that is best by a metric; the last one where nothing was measured on dev."""
    measured = [report for report in reports if metric in report]
    if not measured:
        return reports[-1] if reports else None
    return max(measured, key=lambda report: preference(report, METRICS[metric]))
