"""A sweep that goes on in another space: what fits teaches the sampler, the rest is history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from raytune_glm.config import SweepConfig
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State
from raytune_glm.trials.respace import fit_study
from tests.shipped import MODEL, data

BEFORE = {
    "train.learning_rate": {"log_range": [1e-4, 1e-2]},
    "method.rank": {"choice": [2, 4]},
}


def _sweep(space: dict[str, Any], **search: Any) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "model": {"path": str(MODEL)},
            "data": data("train", dev_rows=8),
            "method": {"name": "lora", "rank": 4},
            "train": {"max_steps": 4},
            "search": {
                "space": space,
                "num_trials": 9,
                "sampler": {"name": "tpe", "num_startup_trials": 2},
                "start_with": [
                    {"train.learning_rate": 2e-4, "method.rank": 2},
                    {"train.learning_rate": 5e-3, "method.rank": 4},
                    {"train.learning_rate": 6e-3, "method.rank": 4},
                ],
                **search,
            },
        }
    )


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """A sweep with two ended trials and one that was running when it was killed."""
    folder = ResultsFolder(tmp_path / "sweep")
    ledger = Ledger(folder, _sweep(BEFORE).search, mode="min")
    for loss in (0.9, 0.5, 0.7):
        number = ledger.propose().number
        report = {"step": 2, "total_steps": 4, "eval_loss": loss, "first_step_at": 2e9}
        ledger.report(number, report)
        if number < 2:
            ledger.report(number, {**report, "step": 4})
            ledger.finish(number, State.COMPLETE)
    return folder


def _study(results: ResultsFolder, name: str = "sweep") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{results.study}")


AFTER = {
    "train.learning_rate": {"log_range": [1e-3, 1e-1]},
    "method.rank": {"choice": [4, 8]},
    "train.weight_decay": {"choice": [0.0, 0.1]},
}


def test_trials_keep_their_numbers_and_those_inside_the_new_space_teach_the_sampler(
    results: ResultsFolder,
) -> None:
    sweep = _sweep(AFTER, start_with=[])
    assert fit_study(results, sweep) == 1
    outside, inside, running = _study(results).trials
    assert outside.params == {}
    assert outside.user_attrs["params"] == {"train.learning_rate": 2e-4, "method.rank": 2}
    assert (outside.value, outside.state.name) == (0.9, "COMPLETE")
    # What was not searched then had the sweep file's own value.
    assert inside.params["train.weight_decay"] == inside.distributions[
        "train.weight_decay"
    ].to_external_repr(0)
    assert inside.params["train.learning_rate"] == 5e-3
    assert (inside.value, inside.intermediate_values) == (0.5, {2: 0.5, 4: 0.5})
    ledger = Ledger(results, sweep.search, mode="min")
    assert sorted(ledger.rows) == [0, 1]
    resumed = ledger.propose()
    assert (resumed.number, resumed.last_step) == (running.number, 2)
    for number in (3, 4, 5):
        live = ledger.propose()
        assert live.number == number
        assert 1e-3 <= live.params["train.learning_rate"] <= 1e-1
        assert live.params["method.rank"] in (4, 8)


def test_the_former_study_is_kept_whole_beside_it(results: ResultsFolder) -> None:
    before = _study(results).trials
    fit_study(results, _sweep(AFTER, start_with=[]))
    kept = _study(results, "sweep, space 000").trials
    assert [trial.params for trial in kept] == [trial.params for trial in before]


def test_optuna_does_not_talk_of_it(
    results: ResultsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)  # as a new process begins
    optuna.logging.enable_propagation()
    try:
        fit_study(results, _sweep(AFTER, start_with=[]))
    finally:
        optuna.logging.disable_propagation()
    assert [record.name for record in caplog.records if record.name.startswith("optuna")] == []


def test_the_same_space_leaves_the_study_alone(results: ResultsFolder) -> None:
    before = _study(results).trials
    assert fit_study(results, _sweep(BEFORE)) == 0
    assert _study(results).trials == before


def test_a_setting_that_is_no_longer_searched_must_have_the_files_value(
    results: ResultsFolder,
) -> None:
    narrow = {"train.learning_rate": BEFORE["train.learning_rate"]}
    assert fit_study(results, _sweep(narrow, start_with=[])) == 1  # rank 2, the file has 4
    first, second, _ = _study(results).trials
    assert first.params == {}
    assert second.params == {"train.learning_rate": 5e-3}


@pytest.mark.parametrize("step", ["copy_study", "delete_study", "create_study"])
def test_a_kill_in_the_middle_loses_no_trial(
    results: ResultsFolder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    sweep = _sweep(AFTER, start_with=[])
    with monkeypatch.context() as patch:
        patch.setattr(optuna, step, killed)
        with pytest.raises(KeyboardInterrupt):
            fit_study(results, sweep)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trials", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_study(results, sweep)
    assert fit_study(results, sweep) == 1
    assert [trial.value for trial in _study(results).trials] == [0.9, 0.5, None]
    assert [t.number for t in _study(results).trials] == [0, 1, 2]
