"""A command in a process of its own, and what it leaves on disk and alive."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml

from tests.shipped import MODEL, data

MARK = "RAYTUNE_GLM_TEST"
"""Environment variable by which a test finds every process that its command left."""

SWEEP: dict[str, Any] = {
    "model": {"path": str(MODEL)},
    "data": data("train", "dev", max_train_rows=64, max_dev_rows=8),
    "method": {"name": "lora", "rank": 4},
    "train": {"max_steps": 8, "batch_size": 8, "micro_batch_size": 8, "eval_every_steps": 4},
    "search": {"metric": "eval_loss"},
    "run": {"name": "sweep", "ray_address": "local"},
}

INTERVAL = 10
"""Steps between two reports of trials that take `small_steps`."""


def small_steps(max_steps: int) -> dict[str, Any]:
    """`train` of trials whose steps are quick and whose reports are many: there is time to kill."""
    return {
        "max_steps": max_steps,
        "batch_size": 2,
        "micro_batch_size": 2,
        "eval_every_steps": INTERVAL,
        "log_every_steps": 1,
    }


class Command:
    """A sweep that runs in a process of its own, and what it left on disk."""

    def __init__(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        self.root = tmp_path / "results/sweep"
        tree = json.loads(json.dumps(SWEEP))
        tree["run"]["storage"] = str(tmp_path / "results")
        for section, values in changes.items():
            tree[section] = {**tree.get(section, {}), **values}
        self.file = tmp_path / "sweep.yaml"
        self.file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        self.words = ["-m", "raytune_glm.sweep", str(self.file)]
        self.mark = uuid.uuid4().hex

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Start the command; end whatever it leaves behind."""
        process = subprocess.Popen(
            [sys.executable, *self.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark},
        )
        try:
            yield process
        finally:
            for left in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        with self.started() as process:
            out, err = process.communicate(timeout=400)
            self.left = self.processes_after(30)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[psutil.Process]:
        """Every living process that the command started, however far down."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != "zombie":
                    found.append(process)
        return found

    def processes_after(self, seconds: float) -> list[psutil.Process]:
        """Those that are still there once they had some seconds to go."""
        wait_until(lambda: not self.processes(), seconds, must=False)
        return self.processes()

    def rows(self) -> list[dict[str, Any]]:
        """The finished trials, in the order in which they ended."""
        path = self.root / "trials.jsonl"
        return lines(path) if path.exists() else []

    def study(self) -> optuna.Study:
        """The study, as anybody may open it."""
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{self.root}/study.db")


def packed_starts(trial: Path) -> list[int]:
    """The steps at which a packed trial came into a slot, the first of them 0."""
    text = (trial / "worker.log").read_text(encoding="utf-8")
    starts = [int(found) for found in re.findall(r"of a pack at step (\d+) of", text)]
    assert starts[0] == 0
    return starts


def reported_steps(trial: Path) -> list[int]:
    """The steps of the reports that a trial left, in their order."""
    return [report["step"] for report in lines(trial / "metrics.jsonl")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_until(happened: Callable[[], bool], seconds: float, *, must: bool = True) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            assert not must, f"nothing happened in {seconds} s"
            return
        time.sleep(0.1)
