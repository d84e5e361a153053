"""The winner: a one-trial file that runs again, and its adapter where anybody finds it."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from raytune_glm import files
from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import SweepConfig, run_of, trial_run
from raytune_glm.trials.records import ResultsFolder, TrialRow


def write_winner(results: ResultsFolder, sweep: SweepConfig, row: TrialRow) -> Path:
    """Write `best.yaml` and `best/`.

    Args:
        results: The sweep's folder.
        sweep: The sweep.
        row: Its best trial.

    Returns:
        The folder `best/`, replaced whole.
    """
    run = trial_run(run_of(sweep), {**row.params, **row.ladder})
    tree = run.model_dump(mode="json")
    tree["run"]["name"] = f"{sweep.run.name}-best"
    tree["search"] = {"metric": sweep.search.metric, "num_trials": 1}
    score = f"{sweep.search.metric}={row.metrics['best'][sweep.search.metric]:.4f}"
    head = f"# The best trial of the sweep {sweep.run.name}: trial {row.number}, {score} on dev.\n"
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    files.write_text(results.root / "best.yaml", head + text)

    return publish_adapter(results.trial(row.id) / "checkpoint", row.best_step, results.root)


def publish_adapter(checkpoint: Path, step: int | None, root: Path) -> Path:
    """Copy a trial's best adapter to `best/` in a results folder, which is replaced whole.

    Args:
        checkpoint: The trial's checkpoint folder.
        step: The step of its best evaluation.
        root: The results folder.

    Returns:
        The folder `best/`.
    """
    adapter = best_adapter(checkpoint, step=step)
    assert adapter is not None, "a trial with a best evaluation has its adapter"
    best, fresh, stale = (root / name for name in ("best", ".best.new", ".best.old"))
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(adapter, fresh)
    if best.exists():
        best.rename(stale)
    fresh.rename(best)
    shutil.rmtree(stale, ignore_errors=True)
    return best
