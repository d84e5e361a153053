"""The ledger over a kill: study, reports and lines of trials must agree again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from raytune_glm.search import SearchSettings
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State

SETTINGS = SearchSettings.model_validate(
    {
        "num_trials": 4,
        "sampler": {"name": "random"},
        "space": {"train.learning_rate": {"log_range": [1e-4, 1e-2]}},
    }
)


def _report(step: int, loss: float, total_steps: int = 4) -> dict[str, Any]:
    return {
        "step": step,
        "total_steps": total_steps,
        "eval_loss": loss,
        "train_loss": loss,
        "seconds": float(step),
        "first_step_at": 2e9,
    }


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "sweep")


def _reopened(results: ResultsFolder, settings: SearchSettings = SETTINGS) -> Ledger:
    return Ledger(results, settings, mode="min")


def _study(results: ResultsFolder) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{results.study}")


def test_a_trial_that_was_running_is_proposed_again_under_its_number(
    results: ResultsFolder,
) -> None:
    first = _reopened(results).propose()
    again = _reopened(results)
    assert again.num_left == 4
    resumed = again.propose()
    assert (resumed.number, resumed.params) == (first.number, first.params)
    assert again.propose().number == 1


def test_reports_told_again_after_a_resume_count_once(results: ResultsFolder) -> None:
    ledger = _reopened(results)
    number = ledger.propose().number
    for step in (1, 2):
        ledger.report(number, _report(step, 1.0 / step))
    again = _reopened(results)
    again.propose()
    for step in (1, 2, 3):
        again.report(number, _report(step, 1.0 / step))
    assert [report["step"] for report in again.live[number].reports] == [1, 2, 3]
    assert sorted(_study(results).trials[0].intermediate_values) == [1, 2, 3]


def test_a_trial_whose_last_report_was_told_is_complete_after_a_kill(
    results: ResultsFolder,
) -> None:
    ledger = _reopened(results)
    number = ledger.propose().number
    ledger.report(number, _report(4, 0.5))
    again = _reopened(results)
    assert again.rows[number].state is State.COMPLETE
    assert again.num_left == 3
    assert _study(results).trials[0].value == 0.5


def test_a_line_that_a_kill_kept_from_being_written_is_written_from_the_study(
    results: ResultsFolder,
) -> None:
    settings = SETTINGS.model_copy(update={"space": {}})
    ledger = _reopened(results, settings)
    number = ledger.propose().number
    ledger.report(number, _report(2, 0.7))
    ledger.finish(number, State.FAILED, "the loss became nan")
    results.trials.unlink()
    row = _reopened(results, settings).rows[number]
    assert (row.state, row.error) == (State.FAILED, "the loss became nan")
    assert row.metrics["best"]["eval_loss"] == 0.7


def test_the_best_evaluation_is_kept_beside_the_last_one(results: ResultsFolder) -> None:
    ledger = _reopened(results)
    number = ledger.propose().number
    for step, loss in enumerate((0.9, 0.4, 0.6, 0.8), start=1):
        ledger.report(number, _report(step, loss))
    row = ledger.finish(number, State.COMPLETE)
    assert row.metrics["best"]["eval_loss"] == 0.4
    assert row.best_step == 2
    assert row.metrics["final"]["eval_loss"] == 0.8
    assert _study(results).trials[0].value == 0.4
