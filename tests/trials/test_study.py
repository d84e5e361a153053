"""What the study is told: states, constraints, objectives, copies, and where it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from raytune_glm import files
from raytune_glm.errors import ConfigError
from raytune_glm.search import SearchSettings
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State

RATE = {"train.learning_rate": {"log_range": [1e-4, 1e-2]}}
METHODS = {"method": {"one_of": {"lora": {"rank": {"choice": [4, 8]}}, "full": {}, "freeze": {}}}}


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder(tmp_path / "sweep")


def opened(results: ResultsFolder, **search: Any) -> Ledger:
    written = {"space": RATE, "num_trials": 8, "sampler": {"name": "random"}, **search}
    settings = SearchSettings.model_validate(written)
    return Ledger(results, settings, mode="max" if settings.metric == "triple_f1" else "min")


def report(step: int, loss: float, **more: float) -> dict[str, Any]:
    seconds = {"seconds": float(step), "device_seconds": 2.0 * step}
    return (
        {"step": step, "total_steps": 4, "eval_loss": loss, "first_step_at": 2e9} | seconds | more
    )


def study(results: ResultsFolder) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{results.study}")


def test_a_trial_without_room_in_memory_is_a_broken_constraint_that_samplers_see(
    results: ResultsFolder,
) -> None:
    ledger = opened(results)
    ledger.finish(ledger.propose().number, State.INFEASIBLE, "out of memory")
    [trial] = study(results).trials
    assert trial.state.name == "PRUNED"  # samplers pass over FAIL
    assert trial.constraints == {"memory": 1.0}
    assert trial.user_attrs["state"] == "INFEASIBLE"


def test_tpe_proposes_a_region_without_room_less_and_again_so_after_a_resume(
    results: ResultsFolder,
) -> None:
    space = {"method.rank": {"int_range": [1, 100]}}
    sampler = {"name": "tpe", "num_startup_trials": 10}
    proposed = []
    for place in range(60):
        if place % 30 == 0:  # all that the sampler knows is on disk
            ledger = opened(results, space=space, num_trials=60, sampler=sampler)
        live = ledger.propose()
        proposed.append(live.params["method.rank"])
        if proposed[-1] > 50:
            ledger.finish(live.number, State.INFEASIBLE, "out of memory")
        else:
            ledger.report(live.number, report(4, abs(proposed[-1] - 30) / 100))
            ledger.finish(live.number, State.COMPLETE)
    too_large = [rank > 50 for rank in proposed]
    # Told as FAIL, which TPE passes over, all of the last 20 are too large (10 of 10 seeds).
    assert sum(too_large[:10]) >= 3
    assert sum(too_large[-20:]) <= 4


def test_a_cost_beyond_its_limit_ends_a_trial_as_infeasible_with_the_share_that_is_too_much(
    results: ResultsFolder,
) -> None:
    ledger = opened(results, limits={"peak_memory_bytes": 100})
    number = ledger.propose().number
    assert not ledger.is_over(number, report(1, 0.5, peak_memory_bytes=100))
    assert ledger.is_over(number, report(1, 0.5, peak_memory_bytes=150))
    ledger.report(number, report(1, 0.5, peak_memory_bytes=150))
    row = ledger.finish(number, State.PRUNED)
    assert row.state is State.INFEASIBLE
    assert row.error == "peak_memory_bytes is 150, while search.limits wants at most 100"
    assert study(results).trials[0].constraints == {"peak_memory_bytes": 0.5}


def test_a_score_below_its_limit_counts_at_the_end_of_a_trial_only(results: ResultsFolder) -> None:
    ledger = opened(results, metric="triple_f1", limits={"triple_f1": 0.5})
    stopped, ended = ledger.propose().number, ledger.propose().number
    ledger.report(stopped, report(1, 0.9, triple_f1=0.2))
    ledger.report(ended, report(4, 0.9, triple_f1=0.25))
    assert ledger.finish(stopped, State.PRUNED).state is State.PRUNED
    assert ledger.finish(ended, State.COMPLETE).state is State.INFEASIBLE
    first, second = study(results).trials
    assert (first.state.name, first.constraints) == ("PRUNED", {})
    assert (second.state.name, second.constraints) == ("COMPLETE", {"triple_f1": 0.5})


def test_several_objectives_have_values_each_and_the_first_ones_on_the_way(
    results: ResultsFolder,
) -> None:
    search = {"objectives": ["trainable_parameters"], "sampler": {"name": "tpe"}, "num_trials": 12}
    ledger = opened(results, **search)
    for place in range(8):
        number = ledger.propose().number
        for step in (2, 4) if place % 2 else (2,):
            ledger.report(number, report(step, 1.0 / step, trainable_parameters=7))
        ledger.finish(number, State.COMPLETE if place % 2 else State.PRUNED)
    ledger.propose()  # TPE with stopped trials and two objectives
    kept = study(results)
    assert kept.directions == [optuna.study.StudyDirection.MINIMIZE] * 2
    assert kept.metric_names == ["eval_loss", "trainable_parameters"]
    assert kept.trials[1].values == [0.25, 7]
    assert kept.trials[1].intermediate_values == {2: 0.5, 4: 0.25}
    assert [t.state.name for t in kept.trials[:2]] == ["PRUNED", "COMPLETE"]


def test_a_trial_is_complete_once_its_device_seconds_are_spent(results: ResultsFolder) -> None:
    ledger = opened(results, budget={"unit": "device_seconds", "per_trial": 5})
    live = ledger.propose()
    assert not ledger.is_over(live.number, report(2, 0.5))
    assert ledger.is_over(live.number, report(3, 0.5))
    ledger.report(live.number, report(3, 0.5))
    assert live.progress == 1


def _end(ledger: Ledger, state: State = State.COMPLETE, *, steps: int = 4) -> str:
    live = ledger.propose()
    if state is not State.FAILED:
        ledger.report(live.number, report(steps, 0.5))
    ledger.finish(live.number, state)
    return str(live.params["method"]["name"])


def test_every_variant_is_tried_as_often_as_its_quota_before_the_sampler_chooses(
    results: ResultsFolder,
) -> None:
    ledger = opened(results, space=METHODS, num_trials=9, quota={"trials": 2})
    names = [_end(ledger) for _ in range(3)]
    ledger = opened(results, space=METHODS, num_trials=9, quota={"trials": 2})
    names += [_end(ledger) for _ in range(3)]
    assert sorted(names) == sorted(["lora", "full", "freeze"] * 2)


def test_a_failed_trial_does_not_fill_a_quota(results: ResultsFolder) -> None:
    ledger = opened(results, space=METHODS, num_trials=9, quota={"trials": 1})
    failed = _end(ledger, State.FAILED)
    assert failed in {_end(ledger) for _ in range(3)}


def test_variants_use_equal_budgets_and_the_sweep_ends_when_all_are_spent(
    results: ResultsFolder,
) -> None:
    ledger = opened(results, space=METHODS, num_trials=40, budget={"per_variant": 8})
    used: dict[str, int] = {}
    while ledger.num_left:
        steps = 1 if used.get("lora", 0) == 4 else 4
        name = _end(ledger, State.PRUNED if steps == 1 else State.COMPLETE, steps=steps)
        used[name] = used.get(name, 0) + steps
    assert used.keys() == {"lora", "full", "freeze"}
    assert all(8 <= steps < 12 for steps in used.values())


def test_the_first_trials_of_a_variant_run_to_their_end_where_a_quota_says_so(
    results: ResultsFolder,
) -> None:
    asha = {"name": "asha", "grace_period_steps": 1}
    search = {"space": METHODS, "quota": {"complete": 1}, "scheduler": asha}
    ledger = opened(results, **search)
    lives = [ledger.propose() for _ in range(6)]  # two of each variant
    first = {live.params["method"]["name"]: live.number for live in reversed(lives)}
    sheltered = [live.number for live in lives if ledger.shelter(live.number)]
    assert sorted(sheltered) == sorted(first.values())
    assert all(ledger.shelter(number) for number in sheltered), "the answer stays the same"


def test_known_good_settings_come_first_and_only_once(results: ResultsFolder) -> None:
    good = [{"train.learning_rate": 1e-3}, {"train.learning_rate": 5e-3}]
    ledger = opened(results, start_with=good)
    assert ledger.propose().params == good[0]
    again = opened(results, start_with=good)
    assert [again.propose().params for _ in range(2)] == good
    assert again.propose().params["train.learning_rate"] not in (1e-3, 5e-3)
    assert again.num_left == 5


PBT = {"name": "pbt", "interval_steps": 1}


def test_a_copy_takes_a_stopped_trials_place_and_the_study_knows_its_parent(
    results: ResultsFolder,
) -> None:
    ledger = opened(results, num_trials=4, scheduler=PBT)
    good, bad, *_ = (ledger.propose().number for _ in range(4))
    ledger.report(good, report(2, 0.1))
    state = results.trial("0000") / "checkpoint/state/step-000002"
    state.mkdir(parents=True)
    (state / "weights").write_text("w", encoding="utf-8")
    index = '{"state": "state/step-000002", "adapters": []}'
    (results.trial("0000") / "checkpoint/index.json").write_text(index, encoding="utf-8")
    smaller = {"train.micro_batch_size": 1}
    rung = {"changes": smaller, "error": "out of memory"}
    files.append_line(results.trial("0000") / "ladder.jsonl", rung)
    ledger.replace(bad, good)
    ledger.finish(bad, State.PRUNED)
    assert ledger.num_left == 1

    again = opened(results, num_trials=4, scheduler=PBT)  # a copy survives a kill
    copies = [live for live in (again.propose() for _ in range(4)) if live.parent is not None]
    [copy] = copies
    assert copy.parent == {"number": good, "step": 2, "replaces": bad}
    assert copy.params != again.live[good].params
    assert [r["step"] for r in copy.reports] == [2]
    copied = results.trial(copy.id) / "checkpoint/state/step-000002/weights"
    assert copied.read_text(encoding="utf-8") == "w"
    assert study(results).trials[copy.number].user_attrs["parent"]["number"] == good
    again.report(copy.number, report(4, 0.05))
    row = again.finish(copy.number, State.COMPLETE)
    assert row.parent == good
    assert row.ladder == smaller, "a checkpoint may be of the rung that it was saved on"


@pytest.mark.parametrize("storage", ["journal", "sqlite:///{root}/elsewhere.db"])
def test_a_study_goes_on_wherever_it_is_kept(results: ResultsFolder, storage: str) -> None:
    written = storage.format(root=results.root)
    ledger = opened(results, storage=written)
    number = ledger.propose().number
    ledger.report(number, report(4, 0.5))
    ledger.finish(number, State.COMPLETE)
    again = opened(results, storage=written)
    assert again.num_left == 7
    assert again.propose().number == 1
    assert not results.study.exists()


@pytest.mark.parametrize(
    "storage",
    [
        "sqlite:////proc/nowhere/study.db",
        "postgresql://nobody@localhost:1/none",
        "redis://localhost",
        "no url at all",
    ],
)
def test_a_storage_that_cannot_be_written_is_refused(results: ResultsFolder, storage: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.storage must be a storage that can be written"):
        opened(results, storage=storage)


def test_two_sweeps_of_one_name_cannot_share_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/all.db"
    opened(ResultsFolder(tmp_path / "a/sweep"), storage=storage)
    with pytest.raises(ConfigError, match=r"has sweep of the results folder .*a/sweep: choose an"):
        opened(ResultsFolder(tmp_path / "b/sweep"), storage=storage)


def test_a_database_begins_anew_only_where_no_trial_has_ended(tmp_path: Path) -> None:
    storage, lost = f"sqlite:///{tmp_path}/all.db", ResultsFolder(tmp_path / "lost/sweep")
    assert [opened(lost, storage=storage).propose().number for _ in range(2)] == [0, 0]
    ledger = opened(lost, storage=storage)
    number = ledger.propose().number
    ledger.report(number, report(4, 0.5))
    ledger.finish(number, State.COMPLETE)
    shutil.rmtree(lost.root)
    with pytest.raises(ConfigError, match=r"all\.db has 1 of sweep, and .* is empty or gone"):
        opened(lost, storage=storage)
    assert len(optuna.load_study(study_name="sweep", storage=storage).trials) == 1
