"""From repeats on disk to the winner, its interval and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.metrics import METRICS
from raytune_glm.report.confirmation import conclude
from raytune_glm.report.leaderboard import confirmed_table
from raytune_glm.report.outcome import is_confirmed, repeats_of, winner_of
from raytune_glm.report.statistics import mean_interval
from raytune_glm.trials.confirm import Repeats
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State
from tests.shipped import MODEL, data


def _sweep(metric: str) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "model": {"path": str(MODEL)},
            "data": data("train", dev_rows=8),
            "method": {"name": "lora", "rank": 4},
            "train": {"max_steps": 4, "seed": 7},
            "search": {
                "metric": metric,
                "num_trials": 3,
                "space": {"method.rank": {"choice": [2, 4, 8]}},
                "start_with": [{"method.rank": rank} for rank in (2, 4, 8)],
                "confirm": {"top": 2, "seeds": 3},
            },
        }
    )


def _end(ledger: Ledger, metric: str, value: float) -> None:
    number = ledger.propose().number
    report: dict[str, Any] = {"step": 4, "total_steps": 4, "eval_loss": 1.0, "first_step_at": 2e9}
    ledger.report(number, {**report, metric: value})
    ledger.finish(number, State.COMPLETE)


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "sweep")


def _repeated(
    results: ResultsFolder, sweep: SweepConfig, first: list[float], second: list[float]
) -> Repeats:
    """A sweep whose trials 1 and 2 were the best, in this order, repeated with these scores."""
    metric = METRICS[sweep.search.metric]
    ledger = Ledger(results, sweep.search, mode=metric.direction)
    worst, *best = (0.1, 0.6, 0.5) if metric.direction == "max" else (0.9, 0.5, 0.6)
    for value in (worst, *best):
        _end(ledger, metric.name, value)
    repeats = repeats_of(results, sweep)
    assert repeats is not None
    assert [row.number for row in repeats.candidates] == [1, 2]
    ledger = Ledger(repeats.results, repeats.search, mode=metric.direction)
    for values in zip(first, second, strict=True):
        for value in values:
            _end(ledger, metric.name, value)
    return repeats


def test_each_candidate_is_repeated_with_its_values_under_every_new_seed(
    results: ResultsFolder,
) -> None:
    sweep = _sweep("triple_f1")
    repeats = _repeated(results, sweep, [0.6, 0.6, 0.6], [0.5, 0.5, 0.5])
    runs = [run.run for row in repeats.candidates for run in repeats.finished_of(row)]
    assert [run.train.seed for run in runs] == [8, 9, 10, 8, 9, 10]
    assert [run.method.model_dump()["rank"] for run in runs] == [4, 4, 4, 8, 8, 8]


def test_the_winner_is_the_best_on_dev_under_new_seeds_whatever_test_says(
    results: ResultsFolder,
) -> None:
    sweep, metric = _sweep("triple_f1"), METRICS["triple_f1"]
    repeats = _repeated(results, sweep, [0.40, 0.42, 0.44], [0.55, 0.50, 0.54])
    assert not is_confirmed(results, sweep)
    hard, easy = [0.2, 0.1, 0.3, 0.2] * 10, [0.9, 1.0, 0.8, 1.0] * 10
    for row, rows in zip(repeats.candidates, (easy, hard), strict=True):
        for run in repeats.finished_of(row):
            files.write_json(run.folder / "scores.json", {"test": {"triple_f1": 0.5}})
            files.write_json(run.folder / "row_scores.json", {"test": {"triple_f1": rows}})
    told = conclude(repeats, metric)
    assert [trial.number for trial in told.trials] == [2, 1]
    assert told.trials[0].dev == mean_interval([0.55, 0.50, 0.54])
    winner = winner_of(results, sweep)
    assert winner is not None
    assert winner.number == 2
    # On test it is worse, which the verdict says and the choice does not heed.
    assert told.is_better is False
    assert told.better_by is not None
    assert told.better_by.value == pytest.approx(0.2 - 0.925)
    by = told.better_by
    assert told.verdict() == (
        "trial 2 wins by its repeats' mean on dev, but is not shown to beat trial 1: triple_f1 "
        f"worse by 0.7250 ({-by.high:.4f} to {-by.low:.4f} at 95 %, paired bootstrap over 40 rows "
        "of test)"
    )


def test_a_loss_is_compared_over_seeds_and_less_is_better(results: ResultsFolder) -> None:
    sweep, metric = _sweep("eval_loss"), METRICS["eval_loss"]
    repeats = _repeated(results, sweep, [0.50, 0.51, 0.52], [0.71, 0.70, 0.72])
    told = conclude(repeats, metric)
    assert [trial.number for trial in told.trials] == [1, 2]
    assert told.is_better
    assert told.better_by is not None
    assert told.better_by.value == pytest.approx(0.2)
    assert "trial 1 wins by its repeats' mean on dev, and beats trial 2" in told.verdict()
    assert "Welch" in told.verdict()


def test_an_interval_is_shown_as_far_as_the_metric_goes(results: ResultsFolder) -> None:
    sweep, metric = _sweep("triple_f1"), METRICS["triple_f1"]
    repeats = _repeated(results, sweep, [1.0, 0.9, 0.4], [0.5, 0.4, 0.6])
    told = conclude(repeats, metric)
    assert told.trials[0].dev.high > 1
    [first, second] = [line[3] for line in confirmed_table(told)[1]]
    assert first.endswith(" to 1.0000)")
    assert second == "0.5000 (0.2516 to 0.7484)"  # 4.3027 x 0.1 / sqrt(3) to each side


def test_other_best_trials_are_confirmed_anew(results: ResultsFolder) -> None:
    sweep, metric = _sweep("triple_f1"), METRICS["triple_f1"]
    repeats = _repeated(results, sweep, [0.6, 0.6, 0.6], [0.5, 0.5, 0.5])
    conclude(repeats, metric)
    assert is_confirmed(results, sweep)
    more = sweep.model_copy(update={"search": sweep.search.model_copy(update={"num_trials": 4})})
    _end(Ledger(results, more.search, mode="max"), "triple_f1", 0.9)
    assert not is_confirmed(results, more)
    assert winner_of(results, more) is not None
