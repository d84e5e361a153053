"""What the bridge itself costs a trial, and how that grows: 200 and 2,000 trials, 64 at a time.

    python benchmarks/ledger.py                    # some minutes
    python benchmarks/ledger.py --storages journal --samplers random

Trials do nothing: each is proposed, reports twice and ends, through the searcher and the callback
that Ray Tune calls. Ray itself is not in the figures. Each line runs in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

LIVE = 64
SPACE = {
    "method.rank": {"int_range": [2, 64], "log": True},
    "train.learning_rate": {"log_range": [1e-5, 1e-1]},
    "train.warmup_ratio": {"range": [0, 0.3]},
}


def measure(num_trials: int, storage: str, sampler: str, scratch: Path) -> tuple[float, float]:
    """Run a sweep of trials that do nothing.

    Returns:
        Trials a second, and by how many MB the process grew.
    """
    import psutil
    from bridge import Bridge

    from raytune_glm.search import SearchSettings

    settings = SearchSettings.model_validate(
        {
            "space": SPACE,
            "num_trials": num_trials,
            "sampler": {"name": sampler},
            "storage": None if storage == "sqlite" else storage,
        }
    )
    bridge = Bridge(scratch / "sweep", settings)
    process = psutil.Process()
    before, started, live = process.memory_info().rss, time.monotonic(), []
    while bridge.ledger.num_left or live:
        while bridge.ledger.num_left and len(live) < LIVE:
            live.append(bridge.begin())
        trial = live.pop(0)
        for step in (1, 2):
            bridge.report(trial, {"step": step, "total_steps": 2, "eval_loss": 1.0 / step})
        bridge.end(trial)
    seconds = time.monotonic() - started
    return num_trials / seconds, (process.memory_info().rss - before) / 1e6


def main() -> int:
    """Print a line of a Markdown table for each storage, sampler and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--storages", nargs="+", default=["sqlite", "journal"])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[200, 2000])
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| storage | sampler | trials | trials a second | the process grew by |")
    print("|---|---|---|---|---|")
    for storage in arguments.storages:
        for sampler in arguments.samplers:
            for size in arguments.sizes:
                with (
                    tempfile.TemporaryDirectory() as scratch,
                    multiprocessing.get_context("spawn").Pool(1) as pool,
                ):
                    speed, grown = pool.apply(measure, (size, storage, sampler, Path(scratch)))
                line = [storage, sampler, f"{size:,}", f"{speed:.0f}", f"{grown:.0f} MB"]
                print("| " + " | ".join(line) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
