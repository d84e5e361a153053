"""What the bridge itself costs a trial, and how that grows: 200 and 2,000 trials, 64 at a time.

    python benchmarks/ledger.py                    # some minutes
    python benchmarks/ledger.py --storages journal --samplers random

Trials do nothing: each is proposed, reports twice and ends, through the searcher and the callback
that Ray Tune calls. Ray itself is not in the figures. Each line runs in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
    from ray.tune.experiment import Trial
    from rich.console import Console

    from raytune_glm.metrics import METRICS
    from raytune_glm.search import SearchSettings
    from raytune_glm.trials.bridge import LedgerCallback, LedgerSearcher
    from raytune_glm.trials.disk import DiskBudget
    from raytune_glm.trials.ledger import Ledger
    from raytune_glm.trials.progress import Progress
    from raytune_glm.trials.records import ResultsFolder

    settings = SearchSettings.model_validate(
        {
            "space": SPACE,
            "num_trials": num_trials,
            "sampler": {"name": sampler},
            "storage": None if storage == "sqlite" else storage,
        }
    )
    results = ResultsFolder(scratch / "sweep")
    ledger = Ledger(results, settings, mode="min")
    searcher = LedgerSearcher(
        ledger, lambda name, params: {"params": params, "folder": str(results.trial(name))}
    )
    progress = Progress(Console(file=io.StringIO()), settings, mode="min", rows=())
    callback = LedgerCallback(
        ledger,
        progress,
        DiskBudget(results, None, METRICS["eval_loss"]),
        on_end=lambda trial_id: None,
    )
    process = psutil.Process()
    before, started, live = process.memory_info().rss, time.monotonic(), []
    while ledger.num_left or live:
        while ledger.num_left and len(live) < LIVE:
            config = searcher.suggest("")
            trial = Trial("nothing", stub=True)
            trial.config = config
            callback.on_trial_start(0, [], trial)
            live.append(trial)
        trial = live.pop(0)
        for step in (1, 2):
            report: dict[str, Any] = {"step": step, "total_steps": 2, "eval_loss": 1.0 / step}
            result = {**report, "report": report}
            callback.on_trial_result(0, [], trial, result)
            trial.update_last_result(result)
        callback.on_trial_complete(0, [], trial)
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
