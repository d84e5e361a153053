"""Steering and confirming a sweep from another process, with real Ray; `-m slow` runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.trials.command import Command, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def ctl(command: Command, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the sweep's folder."""
    return subprocess.run(
        [sys.executable, "-m", "raytune_glm.ctl", str(command.root), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_sweep_is_steered_and_its_best_trials_confirmed(tmp_path: Path) -> None:
    command = Command(
        tmp_path,
        {
            "train": {"max_steps": 120, "micro_batch_size": 2, "eval_every_steps": 2},
            "search": {
                "metric": "eval_loss",
                "num_trials": 1,
                "max_concurrent": 1,
                "sampler": {"name": "random"},
                "space": {"train.learning_rate": {"log_range": [1e-3, 1e-2]}},
                "confirm": {"top": 2, "seeds": 2},
            },
        },
    )
    first = command.root / "trials/0000/metrics.jsonl"
    with command.started() as process:
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
        reader.start()
        wait_until(first.exists, 500)
        assert "running, 0 of 1 trials ended" in ctl(command, "status").stdout
        paused = ctl(command, "pause")
        assert paused.stdout == "paused: 1 running trial(s) wait after their next evaluation\n"
        wait_until(lambda: any("waiting" in line for line in output), 60)
        assert command.rows() == []
        cloned = ctl(command, "clone", "0", "train.learning_rate=5e-3", "--warm")
        assert cloned.stdout.startswith("trial 1 is a clone of trial 0 with learning_rate=0.005")
        assert ctl(command, "stop", "7").stderr.startswith("error: there is no trial 7")
        assert ctl(command, "add", "1").stdout == "1 more trial(s), 3 in all\n"
        assert ctl(command, "resume").stdout == "resumed\n"
        wait_until((command.root / "trials/0002/metrics.jsonl").exists, 400)
        assert ctl(command, "stop", "2").returncode == 0
        wait_until(lambda: (command.root / ".stage").read_text() == "confirm", 60)
        wait_until(lambda: any("repeat 0  " in line for line in output), 400)
        assert "search is over" in ctl(command, "add", "1").stderr
        assert ctl(command, "pause").stdout.startswith("paused: ")
        assert ", 0 of 4 repeats under new seeds ended" in ctl(command, "status").stdout
        process.terminate()
        assert process.wait(timeout=60) == 1
        reader.join()
        assert output[-1] == "interrupted: run the same command again to go on\n"
        assert command.processes_after(30) == []
    status = ctl(command, "status").stdout.splitlines()
    assert status[0].startswith("sweep: not running, 3 of 3 trials ended")
    assert status[-1].startswith("best so far: ")
    assert not list(command.root.glob("trials/*/scores.json"))
    done = command.run()
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["number"]: row for row in command.rows()}
    assert [rows[n]["state"] for n in range(3)] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert rows[1]["parent"] == 0
    assert rows[0]["steps"] == rows[1]["steps"] == 120
    trials = command.study().trials
    assert trials[1].user_attrs["parent"]["step"] > 0
    assert trials[2].user_attrs["orders"][0]["action"] == "stop"
    told = json.loads((command.root / "summary.json").read_text())["confirmation"]
    assert [trial["seeds"] for trial in told["trials"]] == [2, 2]
    assert f"winner      trial {told['trials'][0]['number']}" in done.stdout
    assert told["verdict"] in (command.root / "leaderboard.md").read_text()
    assert ctl(command, "status").stdout.startswith("sweep: over, 3 of 3 trials ended")
    refused = ctl(command, "pause")
    assert refused.returncode == 2
    assert "a sweep must run to be steered, but none does" in refused.stderr
