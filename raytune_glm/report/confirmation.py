"""What the repeats under new seeds say: how good the best trials are, and whether one is the best.

The winner is chosen by its mean on dev; test rows only tell how sure that is. Read next: `outcome`.
"""

from __future__ import annotations

import json
import math

from pydantic import BaseModel, ConfigDict

from raytune_glm import files
from raytune_glm.metrics import Metric
from raytune_glm.report.statistics import (
    Estimate,
    difference_interval,
    mean_interval,
    paired_bootstrap,
)
from raytune_glm.trials.confirm import Repeats
from raytune_glm.trials.receipt import Finished, read_receipt, read_row_scores
from raytune_glm.trials.records import ResultsFolder, TrialRow

FILE = "confirmation.json"


class ConfirmedTrial(BaseModel):
    """A trial of the sweep that was repeated."""

    model_config = ConfigDict(frozen=True)

    number: int
    seeds: int
    """Repeats that came to their end, each under a seed of its own."""
    dev: Estimate
    """Mean of the repeats' best evaluations, and its interval over seeds."""
    test: Estimate | None = None
    """The same on test, of the first two."""


class Confirmation(BaseModel):
    """What the repeats amount to."""

    model_config = ConfigDict(frozen=True)

    repeats: str
    """Folder of the repeats, inside the results folder."""
    metric: str
    trials: list[ConfirmedTrial]
    """The best one on dev first; those with fewer than two repeats that came to an end are not
    among them."""
    better_by: Estimate | None = None
    """How much better the first is than the second, more being better; none: there is but one."""
    basis: str = ""
    """What `better_by` was found on and how."""

    @property
    def winner(self) -> int | None:
        """Number of the best trial."""
        return self.trials[0].number if self.trials else None

    @property
    def is_better(self) -> bool | None:
        """Whether the first beats the second beyond chance."""
        return None if self.better_by is None else self.better_by.low > 0

    def verdict(self) -> str:
        """One sentence."""
        if not self.trials:
            return "no trial has two repeats that came to their end"
        if self.better_by is None:
            return f"trial {self.winner} was repeated alone: there is none to compare with"
        what = "and beats" if self.is_better else "but is not shown to beat"
        is_worse = self.better_by.value < 0
        by = self.better_by.negated() if is_worse else self.better_by
        return (
            f"trial {self.winner} wins by its repeats' mean on dev, {what} trial "
            f"{self.trials[1].number}: {self.metric} {'worse' if is_worse else 'better'} by "
            f"{by.value:.4f} ({by.low:.4f} to {by.high:.4f} at 95 %, {self.basis})"
        )


def read_confirmation(results: ResultsFolder) -> Confirmation | None:
    """What was confirmed, if anything was."""
    path = results.root / FILE
    if not path.exists():
        return None
    return Confirmation.model_validate(json.loads(path.read_text(encoding="utf-8")))


def by_mean_on_dev(repeats: Repeats, metric: Metric) -> list[TrialRow]:
    """The candidates with at least two repeats, the best on dev first."""
    sign = _sign(metric)
    means = {
        row.number: sign * mean_interval(values).value
        for row in repeats.candidates
        if len(values := _dev_values(repeats.finished_of(row), metric)) > 1
    }
    found = [row for row in repeats.candidates if row.number in means]
    return sorted(found, key=lambda row: -means[row.number])


def conclude(repeats: Repeats, metric: Metric) -> Confirmation:
    """Write down what finished repeats amount to.

    Args:
        repeats: The repeats; those of the first two by `by_mean_on_dev` have their receipts.
        metric: What the sweep optimized.
    """
    order = by_mean_on_dev(repeats, metric)
    finished = [repeats.finished_of(row) for row in order]
    better_by, basis = _comparison(finished[0], finished[1], metric) if order[1:] else (None, "")
    confirmation = Confirmation(
        repeats=str(repeats.folder.relative_to(repeats.confirmed.root)),
        metric=metric.name,
        trials=[
            ConfirmedTrial(
                number=row.number,
                seeds=len(runs),
                dev=mean_interval(_dev_values(runs, metric)),
                test=_on_test(runs, metric),
            )
            for row, runs in zip(order, finished, strict=True)
        ],
        better_by=better_by,
        basis=basis,
    )
    files.write_json(repeats.confirmed.root / FILE, confirmation.model_dump(mode="json"))
    return confirmation


def _comparison(
    first: list[Finished], second: list[Finished], metric: Metric
) -> tuple[Estimate, str]:
    """The first's lead: over rows where the metric scores each row, else over seeds."""
    sign = _sign(metric)
    for split in ("test", "dev"):
        scores = [_row_means(runs, split, metric) for runs in (first, second)]
        if all(scores):
            found = paired_bootstrap(*[[sign * score for score in rows] for rows in scores])
            told = f"paired bootstrap over {len(scores[0])} rows of {split}"
            return found, told
    values = [[sign * value for value in _dev_values(runs, metric)] for runs in (first, second)]
    return difference_interval(*values), f"Welch's interval over {len(first)} seeds, on dev"


def _row_means(runs: list[Finished], split: str, metric: Metric) -> list[float]:
    """Each row's score, averaged over the seeds; empty where rows have none."""
    scores = [read_row_scores(run.results, run.row).get(split, {}).get(metric.name) for run in runs]
    found = [rows for rows in scores if rows]
    return [math.fsum(row) / len(row) for row in zip(*found, strict=True)]


def _dev_values(runs: list[Finished], metric: Metric) -> list[float]:
    return [run.row.metrics["best"][metric.name] for run in runs]


def _on_test(runs: list[Finished], metric: Metric) -> Estimate | None:
    scores = [read_receipt(run.results, run.row) or {} for run in runs]
    values = [score["test"][metric.name] for score in scores if "test" in score]
    return mean_interval(values) if len(values) > 1 else None


def _sign(metric: Metric) -> int:
    return 1 if metric.direction == "max" else -1
