"""Kill a sweep's driver with signal 9, again and again, and see what is lost.

    python benchmarks/kill_sweep.py /tmp/kills --kills 10
    python benchmarks/kill_sweep.py /tmp/solo --kills 2 --execution solo

Runs an 8-trial sweep in the folder, kills its driver at a random moment, runs the same command
again, and so on; after the last kill it lets the sweep end and holds against each other what was on
disk at every kill and what is there at the end. Two moments of three are counted from the run's
first report on, since on a slow machine most of a run is its start; the third from its first
second. What it found is printed and written to `kills.json` in the folder. Called again on the same
folder it goes on, for where one command may only take so long (`--seconds`).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from shipped import MODEL, data
from ways import environment

TRIALS = 8
STEPS = 40
INTERVAL = 4
"""Optimizer steps between two reports."""

SWEEP: dict[str, Any] = {
    "model": {"path": str(MODEL)},
    "data": data(max_length=128, max_source_length=96, max_train_rows=64, max_dev_rows=8),
    "method": {"name": "lora", "rank": 4},
    "train": {
        "max_steps": STEPS,
        "batch_size": 8,
        "micro_batch_size": 4,
        "eval_every_steps": INTERVAL,
        "log_every_steps": 1,
    },
    "search": {
        "metric": "eval_loss",
        "num_trials": TRIALS,
        "space": {"train.learning_rate": {"log_range": [1e-3, 1e-2]}},
    },
    "run": {"name": "kills", "ray_address": "local"},
}


def main() -> int:
    """Run the benchmark; give 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--wait", type=float, nargs=2, default=(0.0, 8.0), metavar=("MIN", "MAX"))
    parser.add_argument("--execution", choices=("packed", "solo"), default="packed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    bench = Bench(arguments.folder.resolve(), execution=arguments.execution)
    moments = random.Random(arguments.seed)
    waits = [moments.uniform(*arguments.wait) for _ in range(arguments.kills)]
    while len(bench.kills) < arguments.kills:
        number = len(bench.kills)
        bench.kill_after(waits[number], in_start=number % 3 == 2, end=end)
        if time.monotonic() > end:
            print(f"{len(bench.kills)} kills so far: run it again to go on")
            return 1
        if bench.is_over:
            print(f"the sweep ended after {len(bench.kills)} kills: give it shorter waits")
            return 1
    if not bench.finish(timeout_s=max(1.0, end - time.monotonic())):
        print("the sweep has not ended yet: run it again to go on")
        return 1
    return bench.judge()


class Bench:
    """The sweep in a folder, and what was there at each kill."""

    def __init__(self, folder: Path, *, execution: str) -> None:
        """Use `folder`, made if it is not there, and run trials `packed` or `solo`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "sweep.yaml"
        self._root = folder / "kills"
        self._log = folder / "kills.jsonl"
        self._result = folder / "kills.json"
        tree = json.loads(json.dumps(SWEEP))
        tree["run"] |= {"storage": str(folder), "execution": execution}
        self._file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        self.kills = _lines(self._log)
        self.is_over = False
        """Whether the command came to the sweep's end."""

    def _start(self) -> subprocess.Popen[bytes]:
        output = (self._root.parent / "output.txt").open("ab")
        command = [sys.executable, "-m", "raytune_glm.sweep", str(self._file)]
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def kill_after(self, seconds: float, *, in_start: bool, end: float) -> None:
        """Start the command, kill it, and write down what is on disk then.

        A command that has ended by itself is none that was killed.

        Args:
            seconds: Time from the start, or from the first report, to the kill.
            in_start: Whether it is counted from the start.
            end: When to give up waiting for a report, by the monotonic clock.
        """
        process = self._start()
        before = self._news()
        while not in_start and process.poll() is None and self._news() == before:
            time.sleep(0.1)
            if time.monotonic() > end:
                break
        time.sleep(seconds)
        ended = process.poll()
        process.kill()
        process.wait()
        if ended is not None:
            self.is_over = ended == 0
            print(f"the command ended by itself with status {ended}: see output.txt", flush=True)
            return
        # What a worker was writing at that moment it may have yet finished.
        time.sleep(2)
        seen = {
            "kill": len(self.kills) + 1,
            "after_s": round(seconds, 1),
            "finished": len(_lines(self._root / "trials.jsonl")),
            "trials": {folder.name: _state(folder) for folder in self._trials()},
        }
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(seen) + "\n")
        self.kills.append(seen)
        print(
            f"kill {seen['kill']:>2} after {seconds:4.1f} s: {seen['finished']} trials finished, "
            f"{self._running(seen)} under way",
            flush=True,
        )

    def _news(self) -> int:
        """Reports and ends of trials so far."""
        reports = sum(len(_lines(folder / "metrics.jsonl")) for folder in self._trials())
        return reports + len(_lines(self._root / "trials.jsonl"))

    def _running(self, seen: dict[str, Any]) -> int:
        return len(seen["trials"]) - seen["finished"]

    def _trials(self) -> Iterator[Path]:
        yield from sorted((self._root / "trials").glob("[0-9]*"))

    def finish(self, *, timeout_s: float) -> bool:
        """Let the sweep come to its end; say whether it did in time."""
        process = self._start()
        try:
            return process.wait(timeout=timeout_s) == 0
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return False

    def judge(self) -> int:
        """Compare what there is with what there was at each kill."""
        rows = _lines(self._root / "trials.jsonl")
        study = optuna.load_study(study_name="kills", storage=f"sqlite:///{self._root}/study.db")
        states = [trial.state.name for trial in study.trials]
        reports = {f.name: _lines(f / "metrics.jsonl") for f in self._trials()}
        result = {
            "execution": sorted({row["execution"] for row in rows}),
            "kills": len(self.kills),
            "finished_trials": sum(row["state"] == "COMPLETE" for row in rows),
            "duplicate_rows": len(rows) - len({row["number"] for row in rows}),
            "study_states": {state: states.count(state) for state in sorted(set(states))},
            "duplicate_points": TRIALS
            - len({t.params["train.learning_rate"] for t in study.trials}),
            "lost_reports": sum(
                report not in reports[trial]
                for kill in self.kills
                for trial, seen in kill["trials"].items()
                for report in seen["reports"]
            ),
            "reports_told_twice_or_never": sum(
                [report["step"] for report in told] != list(range(INTERVAL, STEPS + 1, INTERVAL))
                for told in reports.values()
            ),
            "most_steps_trained_twice": max(
                (seen["unsaved"] for kill in self.kills for seen in kill["trials"].values()),
                default=0,
            ),
            "reporting_interval_steps": INTERVAL,
            "processes_left": len(_sweep_processes(self._root)),
        }
        told = {**result, "waits_s": [k["after_s"] for k in self.kills], **environment()}
        self._result.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=2))
        good = (
            result["finished_trials"] == TRIALS
            and result["study_states"] == {"COMPLETE": TRIALS}
            and result["most_steps_trained_twice"] <= INTERVAL
            and not any(
                result[name]
                for name in (
                    "duplicate_rows",
                    "duplicate_points",
                    "lost_reports",
                    "reports_told_twice_or_never",
                    "processes_left",
                )
            )
        )
        print("nothing was lost" if good else "SOMETHING WAS LOST")
        return 0 if good else 1


def _state(folder: Path) -> dict[str, Any]:
    """A trial's reports, and the steps that it took since its last checkpoint."""
    index = folder / "checkpoint/index.json"
    saved = json.loads(index.read_text(encoding="utf-8"))["state"] if index.exists() else None
    steps = [line["step"] for line in _lines(folder / "train.jsonl")]
    done = max(steps, default=0)
    step = int(saved.rpartition("-")[2]) if saved else 0
    is_over = index.exists() and saved is None
    return {
        "reports": _lines(folder / "metrics.jsonl"),
        "done": done,
        "unsaved": 0 if is_over else done - step,
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line that is being written at this moment is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _sweep_processes(root: Path) -> list[psutil.Process]:
    """Workers of the sweep that are alive, by their marks."""
    marks = [json.loads(p.read_text(encoding="utf-8")) for p in (root / "workers").glob("*.json")]
    return [
        psutil.Process(mark["process"]["pid"])
        for mark in marks
        if psutil.pid_exists(mark["process"]["pid"])
    ]


if __name__ == "__main__":
    sys.exit(main())
