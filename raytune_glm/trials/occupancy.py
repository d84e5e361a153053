"""Who is on a device: workers of one sweep leave a mark, and wait until former ones are gone.

Ray gives a device on as soon as it has asked the former worker to end, which may then hold its
memory for a while yet, or hang. Marks are files in `workers/` of the results folder; one goes when
its process is seen to be gone.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass

from raytune_glm import files, memory
from raytune_glm.processes import ProcessMark
from raytune_glm.trials.records import ResultsFolder

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long a worker of a trial that is over may take to end before it is ended."""


@dataclass(frozen=True, kw_only=True)
class _Worker:
    process: ProcessMark
    trial: str
    attempt: str


def enter_device(results: ResultsFolder, *, trial: str, attempt: str, whole_gpu: bool) -> None:
    """Wait until the device of the worker that calls is empty, and mark the worker as being on it.

    Args:
        results: The results folder that the trial is in.
        trial: Name of the trial's folder.
        attempt: The attempt at the trial that this worker is a part of.
        whole_gpu: Whether the worker has a GPU that it shares with no other.
    """
    wait_for_former_workers(results, trial=trial, attempt=attempt)
    if whole_gpu:
        memory.wait_for_free_gpu()
    process = ProcessMark.of_this().as_json()
    files.write_json(
        results.workers / f"{uuid.uuid4().hex}.json",
        {"process": process, "trial": trial, "attempt": attempt},
    )


def wait_for_former_workers(results: ResultsFolder, *, trial: str, attempt: str) -> None:
    """Wait until no worker of this host is left of an earlier attempt, or of a trial that is over.

    One that does not end by itself is ended, by its process id.
    """
    end = time.monotonic() + PATIENCE_S
    over = {row.id for row in results.rows()}
    while True:
        left = [
            worker
            for worker in _workers_here(results)
            if worker.trial in over or (worker.trial == trial and worker.attempt != attempt)
        ]
        if not left:
            return
        if time.monotonic() >= end:
            for worker in left:
                log.warning("ending process %d of trial %s", worker.process.pid, worker.trial)
                worker.process.kill()
            end = time.monotonic() + PATIENCE_S
        time.sleep(0.2)


def end_all_workers(results: ResultsFolder) -> int:
    """End what is left on this host of a sweep that nobody drives; give how many there were."""
    workers = _workers_here(results)
    for worker in workers:
        worker.process.kill()
    return len(workers)


def _workers_here(results: ResultsFolder) -> list[_Worker]:
    """The living workers of this host; the marks of those that are gone are removed."""
    found = []
    for path in results.workers.glob("*.json"):
        told = files.read_json(path)
        if told is None:
            continue  # another worker has just found it gone
        process = ProcessMark(**told.pop("process"))
        if process.find() is not None:
            found.append(_Worker(process=process, **told))
        elif process.is_here:
            path.unlink(missing_ok=True)
    return found
