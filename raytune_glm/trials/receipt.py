"""The winner's receipt: its saved adapter, loaded afresh, scored on dev again and once on test.

Trials are compared on dev, so the best one's score there flatters it; test rows tell what it is
worth. Dev again tells whether the file on disk is what the leaderboard speaks of.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import RunConfig, SweepConfig, run_of, trial_run
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.packed import HostGoneError
from raytune_glm.trials.records import ResultsFolder, TrialRow
from raytune_glm.trials.trainable import hide_unreserved_gpus

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]
"""Split -> metric -> value."""


def read_receipt(results: ResultsFolder, row: TrialRow) -> Scores | None:
    """The scores of a trial's adapter, where they were taken."""
    path = results.trial(row.id) / "scores.json"
    if not path.exists():
        return None
    scores: Scores = json.loads(path.read_text(encoding="utf-8"))
    return scores


def take_receipt(
    sweep: SweepConfig,
    results: ResultsFolder,
    row: TrialRow,
    placement: Placement,
    hosts: Hosts | None,
) -> None:
    """Score a trial's adapter on the cluster, once; what goes wrong is told in the log.

    Args:
        sweep: The sweep.
        results: Its folder; `scores.json` is written in the trial's.
        row: The trial.
        placement: What a worker takes.
        hosts: The pack hosts, one of which then does it; none: a worker of its own.
    """
    import ray

    adapter = best_adapter(results.trial(row.id) / "checkpoint", step=row.best_step)
    assert adapter is not None, "a trial with a best evaluation has its adapter"
    asked = {
        "run": trial_run(run_of(sweep), {**row.params, **row.ladder}).model_dump(mode="json"),
        "adapter": str(adapter),
        "data_cache": str(results.data),
        "metrics": sorted({sweep.search.metric, *sweep.train.metrics}),
        "splits": ("dev", "test"),
    }
    per_worker = placement.per_worker
    try:
        if hosts is not None:
            scores = hosts.score(asked)
        else:
            task = ray.remote(
                num_cpus=per_worker["CPU"], num_gpus=per_worker.get("GPU", 0), max_retries=0
            )(_score)
            scores = ray.get(task.remote({**asked, "resources": per_worker}))
    except (
        ray.exceptions.RayError,
        RuntimeError,
        ConnectionError,
        HostGoneError,
        KeyboardInterrupt,
    ):
        # A base that only several workers hold together does not fit into one: the sweep stands.
        log.exception("the winner's saved adapter could not be scored")
        return
    files.write_json(results.trial(row.id) / "scores.json", scores)


def _score(config: dict[str, Any]) -> Scores:
    hide_unreserved_gpus(config["resources"])
    from raytune_glm.score import score_adapter

    return score_adapter(
        RunConfig.model_validate(config["run"]),
        Path(config["adapter"]),
        data_cache=Path(config["data_cache"]),
        metrics=config["metrics"],
        splits=config["splits"],
    )
