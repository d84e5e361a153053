"""Runs trials outside Ray, in one process or several: `python trainer.py SPEC RANK`.

SPEC is a JSON file: `world_size`, `port`, `metric`, and `trials`, each with `run` (a run's
configuration) and `folder`. Rank 0 appends each report to `reports.jsonl` in the trial's folder.
With `kill_at_report`, the process kills itself with signal 9 right before that report of the first
trial is told; with `full_after_report`, it can write no file of more than 64 KiB from then on.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.config import RunConfig
from raytune_glm.worker import train


def run_trials(spec: dict[str, Any], rank: int) -> None:
    """Run each trial of the specification, one after another, in this process."""
    for trial in spec["trials"]:
        folder = Path(trial["folder"])
        told = 0

        def report(report: dict[str, Any], folder: Path = folder) -> None:
            nonlocal told
            told += 1
            if told == spec.get("kill_at_report"):
                os.kill(os.getpid(), signal.SIGKILL)
            if told == spec.get("full_after_report"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
            if rank == 0:
                files.append_line(folder / "reports.jsonl", report)

        train(
            RunConfig.model_validate(trial["run"]),
            folder=folder,
            data_cache=Path(spec["data_cache"]),
            metric=spec["metric"],
            report=report,
        )


def run_in_processes(spec: dict[str, Any], scratch: Path) -> list[int]:
    """Run the specification in `world_size` processes; give their exit statuses, -9 for a kill."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files.write_json(scratch / "spec.json", spec)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(scratch / "spec.json"), str(rank)],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(spec["world_size"]),
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
            },
        )
        for rank in range(spec["world_size"])
    ]
    return [process.wait(timeout=300) for process in processes]


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    run_trials(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), int(sys.argv[2]))
