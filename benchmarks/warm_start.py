"""Time what a trial waits for on a warm host, from its coming to its first step; needs no Ray.

    python benchmarks/warm_start.py --trials 16

Trials of the shipped LoRA sweep come one after another to a host that has the base loaded, which is
all of a trial's start-up that is not Ray Tune's own. The first one is told apart: it also pays for
what a process does once.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from shipped import ROOT
from ways import environment

from raytune_glm.config import RunConfig, load_sweep, run_of, trial_run
from raytune_glm.packing.messages import Attach, Close
from raytune_glm.packing.runner import PackRunner


def main() -> None:
    """Time, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sweep = load_sweep(ROOT / "sweeps" / "lora.yaml", [])
    run = trial_run(
        run_of(sweep), {"train.max_steps": 1, "train.eval_every_steps": None, "train.metrics": []}
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds = _starts(run, Path(folder), arguments.trials)
    rest = seconds[1:]
    print(
        f"first {seconds[0]:.3f} s; the other {len(rest)}: median {statistics.median(rest):.3f} s, "
        f"most {max(rest):.3f} s"
    )
    path = ROOT / "benchmarks/results/warm_start.json"
    path.parent.mkdir(exist_ok=True)
    result = {"settings": vars(arguments), **environment(), "start_seconds": seconds}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")


def _starts(run: RunConfig, folder: Path, num_trials: int) -> list[float]:
    runner = PackRunner(torch.device("cpu"), pack_size=1)
    runner.load(run, folder / "data")
    thread = threading.Thread(target=runner.run)
    thread.start()
    found = []
    for number in range(num_trials):
        told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        came = time.time()
        runner.inbox.put(
            Attach(
                key=number,
                run=run,
                folder=folder / str(number),
                metric="eval_loss",
                data_cache=folder / "data",
                report=told.put,
            )
        )
        found.append(told.get()["first_step_at"] - came)
    runner.inbox.put(Close())
    thread.join()
    return found


if __name__ == "__main__":
    main()
