"""A pack host under Ray: what its death costs the trials on it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.trials.command import (
    INTERVAL,
    Command,
    lines,
    packed_starts,
    reported_steps,
    small_steps,
    wait_until,
)

pytestmark = pytest.mark.ray


def test_a_killed_host_costs_its_trials_one_reporting_interval_at_most(tmp_path: Path) -> None:
    """Three methods: two that share passes, and one that is alone in its own."""
    command = Command(
        tmp_path,
        {
            "data": {"max_dev_rows": 4},
            "train": {**small_steps(80), "learning_rate": 1e-3},
            "search": {
                "metric": "eval_loss",
                "num_trials": 3,
                "sampler": {"name": "grid"},
                "space": {
                    "method": {
                        "one_of": {
                            "lora": {"rank": {"choice": [4]}},
                            "freeze": {"num_trainable_layers": {"choice": [1]}},
                            "full": {},
                        }
                    }
                },
            },
            "run": {"pack_size": 3},
        },
    )
    door = command.root / "ray/hosts/0.json"
    trials = [command.root / f"trials/{number:04d}" for number in range(3)]

    with command.started() as process:
        wait_until(lambda: all((t / "metrics.jsonl").exists() for t in trials), 300)
        host = json.loads(door.read_text())["pid"]
        os.kill(host, signal.SIGKILL)
        reached = [lines(trial / "train.jsonl")[-1]["step"] for trial in trials]
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rows = command.rows()
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert {row["steps"] for row in rows} == {80}
    assert sorted(row["execution"] for row in rows) == ["packed", "packed", "solo"]
    for trial, step in zip(trials, reached, strict=True):
        starts = packed_starts(trial)
        assert starts[1] > 0, "the host died before the trial had saved"
        assert step - starts[1] <= INTERVAL
        assert reported_steps(trial) == list(range(INTERVAL, 81, INTERVAL))
