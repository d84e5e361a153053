"""What a killed driver leaves behind on its host: its local Ray and the workers of its trials.

The next run of the same sweep ends them before it starts its own: they would hold devices, and
write into the folders of trials that go on. Only processes that the sweep itself wrote down are
ended, each by its id and the moment it began.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from raytune_glm import files
from raytune_glm.processes import ProcessMark
from raytune_glm.trials.occupancy import end_all_workers
from raytune_glm.trials.records import ResultsFolder

log = logging.getLogger(__name__)

STARTED = ".started.json"
"""File in the results folder: the processes that the driver started, its local Ray's."""


def end_leftovers(results: ResultsFolder) -> int:
    """End what is left on this host of an earlier run, whose lock the caller holds.

    Returns:
        How many processes were ended, those that they started not counted.
    """
    marks = files.read_json(results.root / STARTED) or []
    ended = sum(bool(ProcessMark(**mark).kill()) for mark in marks)
    ended += end_all_workers(results)
    forget(results)
    if ended:
        log.warning("ended %d processes that an earlier run left behind", ended)
    return ended


@contextmanager
def written_down(results: ResultsFolder) -> Iterator[None]:
    """Write down the processes that this one starts in the block and that outlive it."""
    driver = psutil.Process()
    before = set(driver.children(recursive=True))
    yield
    started = [ProcessMark.of(p) for p in driver.children(recursive=True) if p not in before]
    files.write_json(results.root / STARTED, [mark.as_json() for mark in started])


def forget(results: ResultsFolder) -> None:
    """Say that nothing is left: all that this run started has ended."""
    (results.root / STARTED).unlink(missing_ok=True)
    shutil.rmtree(results.workers, ignore_errors=True)
