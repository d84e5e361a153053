"""Earlier sweeps as the beginning of a new study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.config.overrides import set_path
from raytune_glm.errors import ConfigError
from raytune_glm.trials.history import earlier_trials
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

TREE: dict[str, Any] = {
    "model": {"path": "base"},
    "data": {"train": ["train.jsonl"], "dev": ["dev.jsonl"]},
    "method": {"name": "lora", "rank": 8},
    "train": {"max_steps": 4},
    "run": {"name": "new"},
}
SPACE = {
    "method": {"one_of": {"lora": {"rank": {"choice": [4, 8]}}, "full": {}}},
    "train.learning_rate": {"log_range": [1e-4, 1e-2]},
}


def sweep(folder: Path, **changes: Any) -> SweepConfig:
    search = {"space": SPACE, "num_trials": 3, "warm_start": [str(folder)]}
    return SweepConfig.model_validate({**TREE, "search": search, **changes})


def earlier(folder: Path, number: int, state: State, **changes: Any) -> None:
    """Write a trial of an earlier sweep, which searched the learning rate alone."""
    results = ResultsFolder(folder)
    rate = 10 ** (-2 - number / 2)
    tree = SweepConfig.model_validate(TREE).model_dump(mode="json", exclude={"search"})
    for path, value in {"train.learning_rate": rate, **changes}.items():
        set_path(tree, path.replace("__", "."), value)
    trial = results.trial(f"{number:04d}")
    files.write_text(trial / "config.yaml", yaml.safe_dump(tree))
    steps = 4 if state is State.COMPLETE else 2
    for step in range(2, steps + 1, 2):
        files.append_line(trial / "metrics.jsonl", {"step": step, "eval_loss": 1.0 / step})
    results.add(
        TrialRow(
            number=number,
            id=f"{number:04d}",
            state=state,
            params={"train.learning_rate": rate},
            metrics={"final": {}, "best": {"eval_loss": 1.0 / steps}},
            best_step=steps,
            steps=steps,
            seconds=1.0,
            start_seconds=1.0,
            tokens_per_second=None,
            peak_memory_bytes=None,
            trainable_parameters=None,
        )
    )


def test_what_an_earlier_sweep_did_not_search_is_known_from_its_trials_settings(
    tmp_path: Path,
) -> None:
    for number, state in enumerate((State.COMPLETE, State.PRUNED, State.INFEASIBLE)):
        earlier(tmp_path / "old", number, state)
    complete, pruned, infeasible = earlier_trials(sweep(tmp_path / "old"))
    assert complete.params == {
        "method.name": "lora",
        "method[lora].rank": 8,
        "train.learning_rate": 1e-2,
    }
    assert (complete.state.name, complete.value) == ("COMPLETE", 0.25)
    assert complete.intermediate_values == {2: 0.5, 4: 0.25}
    assert (pruned.state.name, pruned.intermediate_values) == ("PRUNED", {2: 0.5})
    assert (infeasible.state.name, infeasible.constraints) == ("PRUNED", {"memory": 1.0})


def test_trials_that_failed_or_lie_outside_the_space_are_left_out(tmp_path: Path) -> None:
    earlier(tmp_path / "old", 0, State.COMPLETE)
    earlier(tmp_path / "old", 1, State.FAILED)
    earlier(tmp_path / "old", 2, State.COMPLETE, method__rank=64)
    assert len(earlier_trials(sweep(tmp_path / "old"))) == 1


def test_settings_that_are_not_searched_and_differ_are_told_with_a_trials_score(
    tmp_path: Path,
) -> None:
    changes = {"train__weight_decay": 0.1, "train__micro_batch_size": 2, "method__alpha": 64}
    earlier(tmp_path / "old", 0, State.COMPLETE)
    earlier(tmp_path / "old", 1, State.COMPLETE, **changes)
    same, other = earlier_trials(sweep(tmp_path / "old"))
    assert same.user_attrs["other_settings"] == []
    assert other.user_attrs["other_settings"] == ["method.alpha", "train.weight_decay"]


def test_a_trial_of_another_length_counts_as_stopped_where_it_ended(tmp_path: Path) -> None:
    earlier(tmp_path / "old", 0, State.COMPLETE)
    longer = sweep(tmp_path / "old", train={"max_steps": 100})
    [trial] = earlier_trials(longer)
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {2: 0.5, 4: 0.25})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"path": "other"}}, "its model.path is 'base', while this sweep's is 'other'"),
        (
            {"data": {"train": "train.jsonl", "dev": "new.jsonl"}},
            r"its data.dev is \['dev.jsonl'\]",
        ),
    ],
)
def test_scores_that_do_not_compare_are_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    earlier(tmp_path / "old", 0, State.COMPLETE)
    with pytest.raises(ConfigError, match=told):
        earlier_trials(sweep(tmp_path / "old", **changes))


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.warm_start must list results folders"):
        earlier_trials(sweep(tmp_path / "nowhere"))


def test_history_is_in_the_study_once_and_counts_as_none_of_the_sweeps_trials(
    tmp_path: Path,
) -> None:
    earlier(tmp_path / "old", 0, State.COMPLETE)
    new = sweep(tmp_path / "old")
    results = ResultsFolder(tmp_path / "new")
    for number in (1, 2):
        ledger = Ledger(results, new.search, mode="min", history=earlier_trials(new))
        live = ledger.propose() if number == 1 else [ledger.propose(), ledger.propose()][-1]
        assert live.number == number
        assert ledger.num_left == 3 - number
        ledger.report(live.number, {"step": 2, "total_steps": 4, "eval_loss": 0.5})
    study = optuna.load_study(study_name="new", storage=f"sqlite:///{results.study}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING", "RUNNING"]
    assert study.trials[0].user_attrs["from"] == {"folder": str(tmp_path / "old"), "number": 0}
