"""Trials with workers of their own in a sweep whose other trials are packed, under Ray."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.trials.command import INTERVAL, Command, small_steps, wait_until

pytestmark = pytest.mark.ray


def stop(command: Command, trial: int) -> str:
    words = ["raytune_glm.ctl", str(command.root), "stop", str(trial)]
    run = [sys.executable, "-m", *words]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=60).stdout


def workers(command: Command) -> list[psutil.Process]:
    """The living workers of trials that have their own."""
    marks = [json.loads(path.read_text()) for path in command.root.glob("workers/*.json")]
    pids = {mark["process"]["pid"] for mark in marks}
    return [process for process in command.processes() if process.pid in pids]


def test_devices_pass_from_own_workers_to_a_host_as_soon_as_a_trial_is_stopped(
    tmp_path: Path,
) -> None:
    """Trial 0 joins rows, which no host does; 1 and 2 wait for it."""
    packed = {"train.packing": False, "train.max_steps": 2 * INTERVAL}
    command = Command(
        tmp_path,
        {
            "data": {"max_dev_rows": 4},
            "train": small_steps(2 * INTERVAL),
            "search": {
                "metric": "eval_loss",
                "num_trials": 3,
                "sampler": {"name": "random"},
                "space": {
                    "train.packing": {"choice": [True, False]},
                    "train.max_steps": {"choice": [2 * INTERVAL, 10**6]},
                },
                "start_with": [
                    {"train.packing": True, "train.max_steps": 10**6},
                    packed,
                    packed,
                ],
            },
        },
    )
    trials = [command.root / f"trials/{number:04d}" for number in range(2)]

    with command.started() as process:
        wait_until((trials[0] / "metrics.jsonl").exists, 200)
        assert len(workers(command)) == 1
        assert "trial 2 ends" in stop(command, 2)
        wait_until(lambda: [row["number"] for row in command.rows()] == [2], 20)
        assert len(workers(command)) == 1, "only the trial that waited has ended"
        assert "trial 0 ends" in stop(command, 0)
        wait_until((trials[1] / "metrics.jsonl").exists, 100)
        assert workers(command) == []
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(200)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    rows = {row["number"]: row for row in command.rows()}
    assert [rows[number]["state"] for number in range(3)] == ["PRUNED", "COMPLETE", "PRUNED"]
    assert [rows[number]["steps"] for number in (1, 2)] == [2 * INTERVAL, 0]
    assert [rows[number]["execution"] for number in (0, 1)] == ["solo", "packed"]
    assert "host 0    left       its device, to a trial's own workers" in out
    assert "trial 1   queued" in out
    assert "host 0    back       on its device" in out
    assert "trial 1   its turn   to host 0" in out
    assert (command.root / "best").is_dir()
