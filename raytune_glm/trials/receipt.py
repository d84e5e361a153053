"""The winner's receipt: its saved adapter, loaded afresh, scored on dev again and once on test.

Trials are compared on dev, so the best one's score there flatters it; test rows tell what it is
worth. Dev again tells whether the file on disk is what the leaderboard speaks of.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import RunConfig
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.doors import HostGoneError
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.records import ResultsFolder, TrialRow
from raytune_glm.trials.trainable import hide_unreserved_gpus

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, float]]
"""Split -> metric -> value."""
RowScores = dict[str, dict[str, list[float]]]
"""Split -> metric of answers -> value of each row."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished trial whose adapter is to be scored."""

    run: RunConfig
    """What it trained with."""
    row: TrialRow
    results: ResultsFolder
    """Where it is; `scores.json` and `row_scores.json` are written in its folder."""

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.results.trial(self.row.id)


def read_receipt(results: ResultsFolder, row: TrialRow) -> Scores | None:
    """The scores of a trial's adapter, where they were taken."""
    scores: Scores | None = files.read_json(results.trial(row.id) / "scores.json")
    return scores


def read_row_scores(results: ResultsFolder, row: TrialRow) -> RowScores:
    """The scores of a trial's adapter on each row; empty where they were not taken."""
    scores: RowScores | None = files.read_json(results.trial(row.id) / "row_scores.json")
    return scores or {}


def take_receipts(
    trials: Sequence[Finished],
    placement: Placement,
    hosts: Hosts | None,
    *,
    metrics: Sequence[str],
) -> None:
    """Score adapters on the cluster, each once; what goes wrong is told in the log.

    Args:
        trials: Those to score; a trial that has its scores is left out.
        placement: What a worker takes.
        hosts: The pack hosts, one of which then does it; without one, workers of their own.
        metrics: What to measure; `eval_loss` always is.
    """
    import ray

    for trial in trials:
        if read_receipt(trial.results, trial.row) is not None:
            continue
        try:
            scores = _scores(trial, placement, hosts, metrics)
        except (ray.exceptions.RayError, RuntimeError, ConnectionError, HostGoneError):
            # A base that only several workers hold together does not fit into one: the sweep
            # stands.
            log.exception("the saved adapter of trial %d could not be scored", trial.row.number)
            continue
        for name, what in (("row_scores.json", "rows"), ("scores.json", "values")):
            told = {split: found[what] for split, found in scores.items()}
            files.write_json(trial.folder / name, told)


def _scores(
    trial: Finished, placement: Placement, hosts: Hosts | None, metrics: Sequence[str]
) -> dict[str, Any]:
    import ray

    adapter = best_adapter(trial.folder / "checkpoint", step=trial.row.best_step)
    assert adapter is not None, "a trial with a best evaluation has its adapter"
    asked = {
        "run": trial.run.model_dump(mode="json"),
        "adapter": str(adapter),
        "data_cache": str(trial.results.data),
        "metrics": list(metrics),
        "splits": ("dev", "test"),
    }
    if hosts is not None and hosts.can_score:
        return hosts.score(asked)
    resources = placement.per_worker
    task = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), max_retries=0)(
        _score
    )
    scores: dict[str, Any] = ray.get(task.remote({**asked, "resources": resources}))
    return scores


def _score(config: dict[str, Any]) -> dict[str, Any]:
    hide_unreserved_gpus(config["resources"])
    from raytune_glm.score import score_adapter

    scores = score_adapter(
        RunConfig.model_validate(config["run"]),
        Path(config["adapter"]),
        data_cache=Path(config["data_cache"]),
        metrics=config["metrics"],
        splits=config["splits"],
    )
    return {split: asdict(found) for split, found in scores.items()}
