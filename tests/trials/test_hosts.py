"""A pack host under Ray: what its death costs the trials on it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.trials.command import Command, lines, wait_until

pytestmark = pytest.mark.ray

INTERVAL = 10
"""Steps between two reports."""


def test_a_killed_host_costs_its_trials_one_reporting_interval_at_most(tmp_path: Path) -> None:
    """Three methods: two that share passes, and one that is alone in its own."""
    command = Command(
        tmp_path,
        {
            "data": {"max_dev_rows": 4},
            "train": {
                "max_steps": 80,
                "batch_size": 2,
                "micro_batch_size": 2,
                "eval_every_steps": INTERVAL,
                "log_every_steps": 1,
                "learning_rate": 1e-3,
            },
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
        text = (trial / "worker.log").read_text(encoding="utf-8")
        starts = [int(found) for found in re.findall(r"of a pack at step (\d+) of", text)]
        assert starts[0] == 0
        assert starts[1] > 0, "the host died before the trial had saved"
        assert step - starts[1] <= INTERVAL
        reports = [report["step"] for report in lines(trial / "metrics.jsonl")]
        assert reports == list(range(INTERVAL, 81, INTERVAL))
