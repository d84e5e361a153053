"""How a sweep stands, read from its results folder alone, whether it runs or not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from raytune_glm import files
from raytune_glm.errors import ConfigError
from raytune_glm.trials.orders import PAUSED
from raytune_glm.trials.records import ResultsFolder, TrialRow


def describe_status(root: Path, *, is_running: bool) -> str:
    """A line for the sweep and one for each trial.

    Args:
        root: The results folder.
        is_running: Whether somebody runs the sweep now.

    Raises:
        ConfigError: The folder's `sweep.yaml` is not one.
    """
    results = ResultsFolder(root)
    settings = yaml.safe_load((root / "sweep.yaml").read_text(encoding="utf-8"))
    try:
        name, search = settings["run"]["name"], settings["search"]
        metric, wanted = search["metric"], search["num_trials"]
    except (KeyError, TypeError):
        raise ConfigError(f"{root / 'sweep.yaml'} must be a sweep's, but is not") from None
    rows = {row.id: row for row in results.rows()}
    begun = sorted(path.name for path in (root / "trials").glob("[0-9]*") if path.is_dir())
    open_ids = [trial_id for trial_id in begun if trial_id not in rows]
    counts = Counter(row.state.value for row in rows.values())
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    what = "running" if is_running else "not running"
    lines = [
        f"{name}: {what}, {len(rows)} of {wanted} trials ended" + (f" ({states})" if states else "")
    ]
    if is_running and (root / PAUSED).exists():
        lines[0] += ", paused"
    lines += [_ended(row, metric) for row in rows.values()]
    lines += [_open(results, trial_id, metric) for trial_id in open_ids]
    return "\n".join(lines)


def _ended(row: TrialRow, metric: str) -> str:
    best = row.metrics["best"].get(metric)
    score = "" if best is None else f"  best {metric}={best:.4f}"
    return f"{row.number:>5}  {row.state.value:<10}  step {row.steps}{score}"


def _open(results: ResultsFolder, trial_id: str, metric: str) -> str:
    reports: list[dict[str, Any]] = files.read_lines(results.trial(trial_id) / "metrics.jsonl")
    if not reports:
        return f"{int(trial_id):>5}  begun"
    last = reports[-1]
    return (
        f"{int(trial_id):>5}  begun       step {last['step']} of {last['total_steps']}  "
        f"{metric}={last[metric]:.4f}"
    )
