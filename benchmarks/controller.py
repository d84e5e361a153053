"""What the driver costs on real Ray Tune: 200 and 2,000 trials that do nothing, 64 at a time.

    python benchmarks/controller.py                    # some minutes on two cores
    python benchmarks/controller.py --sizes 50 --live 8

Everything is a packed sweep's but the pack: our `run_trials` with Ray's Tuner, the searcher, ASHA,
the study, the light processes that stand for trials; behind their door is a process that answers
each with two reports at once. Trials a second are counted from the first finished one on, so that
the start of Ray and of the processes stands apart. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ways import environment

KEY = b"nothing"
REPORTS = 2
SPACE = {
    "method.rank": {"int_range": [2, 64], "log": True},
    "train.learning_rate": {"log_range": [1e-5, 1e-1]},
    "train.warmup_ratio": {"range": [0, 0.3]},
}


def serve(door: str) -> None:
    """Be a pack host whose trials are over as soon as they have come."""
    listener = Listener(("127.0.0.1", 0), backlog=256, authkey=KEY)
    Path(door).write_text(json.dumps({"address": listener.address}), encoding="utf-8")
    while True:
        threading.Thread(target=_answer, args=(listener.accept(),), daemon=True).start()


def _answer(connection: Connection) -> None:
    try:
        while True:
            message = connection.recv()
            if "attach" not in message:
                continue
            for step in range(1, REPORTS + 1):
                report = {
                    "step": step,
                    "total_steps": REPORTS,
                    "eval_loss": 1.0 / step,
                    "train_loss": 1.0 / step,
                    "seconds": 0.1 * step,
                    "device_seconds": 0.1 * step,
                    "first_step_at": time.time(),
                    "execution": "packed",
                }
                connection.send({"report": report, "visit": message["visit"]})
    except (EOFError, OSError):
        connection.close()


class Watch(Callback):
    """Has nothing to tell."""

    room = sys.maxsize

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()


class Host:
    """Stands for the pack hosts of a sweep."""

    def __init__(self, door: Path) -> None:
        """Send trials to `door`."""
        self._door = door

    def attachment(self, trial_id: str, attach: dict[str, Any]) -> dict[str, Any]:
        """A trial's configuration."""
        return {"door": str(self._door), "key": KEY, "attach": attach, "visit": trial_id}

    def watch(self, progress: Any) -> Watch:
        """What tells of the hosts."""
        return Watch()

    def release(self, trial_id: str) -> None:
        """Forget a trial that is over: nothing is remembered."""


class Gauge(threading.Thread):
    """Notes once a second how many trials have ended and how large the driver is."""

    def __init__(self, ended: Any) -> None:
        """Watch this process; `ended` counts by its length."""
        super().__init__(daemon=True)
        self._ended = ended
        self.seen: list[tuple[float, int, float]] = []
        """Seconds by the monotonic clock, trials, MB."""

    def run(self) -> None:
        """Look, once a second."""
        import psutil

        process = psutil.Process()
        while True:
            now, size = time.monotonic(), process.memory_info().rss / 1e6
            self.seen.append((now, len(self._ended), size))
            time.sleep(1)


def measure(num_trials: int, live: int, sampler: str, storage: str, scratch: Path) -> list[str]:
    """Run a sweep of trials that do nothing; give the cells of its line."""
    import ray
    from rich.console import Console

    from raytune_glm.config import SweepConfig
    from raytune_glm.log import printing_to
    from raytune_glm.trials.cluster import Placement, connect
    from raytune_glm.trials.ledger import Ledger
    from raytune_glm.trials.progress import Progress
    from raytune_glm.trials.records import ResultsFolder
    from raytune_glm.trials.tuner import run_trials

    sweep = SweepConfig.model_validate(
        {
            "model": {"path": "none"},
            "data": {"train": "none.jsonl"},
            "method": {"name": "lora"},
            "train": {"max_steps": REPORTS, "eval_every_steps": 1},
            "search": {
                "space": SPACE,
                "num_trials": num_trials,
                "sampler": {"name": sampler},
                "scheduler": {"name": "asha", "grace_period_steps": 1},
                "storage": None if storage == "sqlite" else storage,
            },
            "run": {"name": "nothing", "storage": str(scratch)},
        }
    )
    results = ResultsFolder(sweep.run.folder)
    door = scratch / "door.json"
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(door),))
    server.start()
    started = time.monotonic()
    connect("local", log_file=scratch / "ray.log")
    try:
        ledger = Ledger(results, sweep.search, mode="min")
        gauge = Gauge(ledger.rows)
        gauge.start()
        with printing_to(scratch / "ray.log"):
            run_trials(
                sweep,
                results,
                ledger,
                Progress(Console(file=io.StringIO()), sweep.search, mode="min", rows=()),
                max_steps=REPORTS,
                placement=Placement(per_worker={"CPU": 1}, num_nodes=1, max_concurrent=live),
                hosts=Host(door),  # type: ignore[arg-type]  # all that `run_trials` asks of hosts
            )
        end = time.monotonic()
    finally:
        ray.shutdown()
        server.kill()
    first, ended_first, size_first = next(seen for seen in gauge.seen if seen[1] > 0)
    count = len(ledger.rows) - ended_first
    size = gauge.seen[-1][2]
    return [
        storage,
        sampler,
        f"{len(ledger.rows):,}",
        f"{first - started:.0f} s",
        f"{count / (end - first):.1f}",
        f"{size:.0f} MB",
        f"{(size - size_first) / count * 1000:.0f} kB",
    ]


def main() -> int:
    """Print a line of a Markdown table for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[200, 2000])
    parser.add_argument("--live", type=int, default=64, help="trials at a time")
    parser.add_argument("--samplers", nargs="+", default=["tpe"])
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"])
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{arguments.live} at a time; {json.dumps(environment())}\n")
    head = ["storage", "sampler", "trials", "first end after", "trials a second"]
    print("| " + " | ".join([*head, "driver at the end", "growth a trial"]) + " |")
    print("|---|---|---|---|---|---|---|")
    for storage in arguments.storages:
        for sampler in arguments.samplers:
            for size in arguments.sizes:
                with tempfile.TemporaryDirectory() as scratch:
                    asked = (size, arguments.live, sampler, storage, Path(scratch))
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                        line = pool.submit(measure, *asked).result()
                print("| " + " | ".join(line) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
