"""What a killed driver left is ended by its own mark, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from raytune_glm import files
from raytune_glm.processes import ProcessMark
from raytune_glm.trials import occupancy
from raytune_glm.trials.leftovers import end_leftovers, written_down
from raytune_glm.trials.records import ResultsFolder, State, TrialRow


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path)


def _is_alive(process: subprocess.Popen[bytes]) -> bool:
    time.sleep(0.1)
    return process.poll() is None


def _mark(results: ResultsFolder, process: ProcessMark, *, trial: str, attempt: str) -> Path:
    path = results.workers / f"{process.pid}.json"
    files.write_json(path, {"process": process.as_json(), "trial": trial, "attempt": attempt})
    return path


def _row(number: int) -> TrialRow:
    empty = dict.fromkeys(
        ("best_step", "seconds", "start_seconds", "tokens_per_second", "peak_memory_bytes"), None
    )
    return TrialRow(
        number=number,
        id=f"{number:04d}",
        state=State.PRUNED,
        params={},
        metrics={"best": {}, "final": {}},
        steps=0,
        trainable_parameters=None,
        **empty,
    )


def test_the_next_run_ends_what_the_killed_one_started_and_nothing_else(
    results: ResultsFolder,
) -> None:
    with sleeper() as bystander, sleeper() as worker:
        with written_down(results):
            ray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        _mark(results, ProcessMark.of(psutil.Process(worker.pid)), trial="0000", attempt="a")
        assert end_leftovers(results) == 2
        assert ray.wait(timeout=10) == worker.wait(timeout=10) == -9
        assert _is_alive(bystander)
        assert end_leftovers(results) == 0


def test_a_process_that_has_a_dead_ones_id_is_left_alone(results: ResultsFolder) -> None:
    with sleeper() as bystander:
        mark = ProcessMark.of(psutil.Process(bystander.pid))
        _mark(results, replace(mark, created=mark.created - 60), trial="0000", attempt="a")
        assert end_leftovers(results) == 0
        assert _is_alive(bystander)


def test_a_worker_waits_for_those_of_its_own_earlier_attempt_and_of_trials_that_are_over(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "PATIENCE_S", 0.5)
    results.add(_row(1))
    with sleeper() as earlier, sleeper() as over, sleeper() as neighbour:
        for process, trial, attempt in (
            (earlier, "0000", "first"),
            (over, "0001", "only"),
            (neighbour, "0002", "only"),
        ):
            mark = ProcessMark.of(psutil.Process(process.pid))
            _mark(results, mark, trial=trial, attempt=attempt)
        occupancy.enter_device(results, trial="0000", attempt="second", whole_gpu=False)
        assert not _is_alive(earlier)
        assert not _is_alive(over)
        assert _is_alive(neighbour)
        assert len(list(results.workers.iterdir())) == 2  # the neighbour and this process
