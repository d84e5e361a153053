"""The forecasting sampler: young trials beside finished ones, limits, what is fixed."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from pydantic import TypeAdapter

from raytune_glm.search import Sampler
from raytune_glm.search.cube import Cube
from raytune_glm.search.observed import observe
from raytune_glm.search.regression import Regression, Scores
from raytune_glm.space import Space, choose

SPACE: Space = TypeAdapter(Space).validate_python(
    {
        "method.rank": {"int_range": [2, 64], "log": True},
        "method.dropout": {"range": [0, 0.3], "step": 0.05},
        "train.learning_rate": {"log_range": [1e-5, 1e-1]},
        "train.batch_size": {"choice": [8, 16, 32]},
    }
)


def _study(space: Space, **settings: Any) -> optuna.Study:
    made: Any = TypeAdapter(Sampler).validate_python({"name": "forecast", **settings})
    return optuna.create_study(sampler=made.build(num_trials_before=0, space=space))


def _trial(state: TrialState, reports: dict[int, float]) -> optuna.trial.FrozenTrial:
    value = min(reports.values()) if state is TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=reports)


def test_a_trial_stopped_while_ahead_counts_as_better_than_a_complete_one() -> None:
    complete = [_trial(TrialState.COMPLETE, {9: x + 1, 27: x + 0.5, 81: x}) for x in (0.4, 0.6)]
    stopped = _trial(TrialState.PRUNED, {9: 1.3})
    running = _trial(TrialState.RUNNING, {9: 1.5, 27: 1.0})
    found = observe([*complete, stopped, running], sign=1)
    ends = {
        int(trial): value
        for trial, left, value in zip(found.trials, found.left, found.values, strict=True)
        if (trial < 2 and left == 0) or trial == 2 or (trial == 3 and left < 0.5)
    }
    # All gain 0.5 from 9 to 27 and from 27 to 81: the stopped one was to end at 0.3, the running
    # one is to end at 0.5.
    assert sorted(ends, key=lambda trial: ends[trial]) == [2, 0, 3, 1]
    assert (ends[3] - ends[0]) / (ends[1] - ends[0]) == pytest.approx(0.5)


def test_a_diverged_trial_does_not_drown_the_differences_of_the_others() -> None:
    def spread(worst: float) -> float:
        values = [0.5, 0.6, 0.7, 0.8, worst]
        found = observe([_trial(TrialState.COMPLETE, {9: value}) for value in values], sign=1)
        return float(found.values[1] - found.values[0])

    assert spread(1e6) == pytest.approx(spread(1e3))
    assert spread(1e6) > 0.4


def test_where_more_is_better_the_highest_score_is_the_best() -> None:
    found = observe([_trial(TrialState.COMPLETE, {9: value}) for value in (0.2, 0.9)], sign=-1)
    assert found.values[1] < found.values[0]


def test_the_regression_finds_which_setting_matters() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((40, 3))
    truth = np.sin(4 * points[:, 1])
    values = (truth - truth.mean()) / truth.std()
    regression = Regression(np.arange(3))
    scores = Scores(points, np.zeros(40), values)
    regression.fit(scores)
    regression.learn(scores)
    new = rng.random((50, 3))
    mean, deviation = regression.ends(new)
    wanted = (np.sin(4 * new[:, 1]) - truth.mean()) / truth.std()
    assert np.abs(mean - wanted).max() < 0.1
    assert (np.abs(mean - wanted) < 4 * deviation).all()


def test_an_early_score_leaves_the_end_less_certain_than_a_final_one() -> None:
    points = np.array([[0.2], [0.8]])
    regression = Regression(np.zeros(1, int))
    regression.learn(Scores(points, np.array([0.0, 1.0]), np.array([-1.0, 1.0])))
    _, deviation = regression.ends(points)
    assert deviation[0] < deviation[1]


def test_places_and_values_of_a_space_are_each_others_inverse() -> None:
    cube = Cube(SPACE)
    for row in cube.settle(cube.draw(20, np.random.default_rng(2)), {}):
        again = cube.row(cube.values(row))
        assert again is not None
        np.testing.assert_allclose(again, row, atol=1e-12)


def test_what_the_user_fixes_is_kept_and_the_rest_proposed() -> None:
    study = _study(SPACE, num_startup_trials=4, random_share=0)
    for _ in range(16):
        trial = study.ask()
        point = choose(SPACE, trial)
        study.tell(trial, abs(math.log10(point["train.learning_rate"] / 1e-3)))
    off = []
    for rank in (4, 16, 64) * 3:
        study.enqueue_trial({"method.rank": rank, "train.batch_size": 16})
        point = choose(SPACE, study.ask())
        assert (point["method.rank"], point["train.batch_size"]) == (rank, 16)
        off.append(abs(math.log10(point["train.learning_rate"] / 1e-3)))
    assert statistics.median(off) < 0.3  # by chance it is 1


def test_it_leaves_the_region_that_has_no_room() -> None:
    study = _study(SPACE, num_startup_trials=4, random_share=0)
    late = []
    for number in range(40):
        trial = study.ask()
        point = choose(SPACE, trial)
        is_beyond = point["method.rank"] > 16
        if is_beyond:
            trial.set_constraint("memory", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        else:  # more rank is better, up to where there is no room
            trial.report(1 - math.log2(point["method.rank"]) / 10, 1)
            study.tell(trial, 1 - math.log2(point["method.rank"]) / 10)
        late += [is_beyond] if number >= 25 else []
    assert sum(late) <= 5


def test_several_objectives_are_left_to_tpe() -> None:
    made: Any = TypeAdapter(Sampler).validate_python({"name": "forecast", "num_startup_trials": 3})
    sampler = made.build(num_trials_before=0, space=SPACE)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(8):
        trial = study.ask()
        rate = choose(SPACE, trial)["train.learning_rate"]
        study.tell(trial, [rate, -rate])
    assert len(study.best_trials) >= 1


def test_a_space_without_settings_is_proposed_as_it_is() -> None:
    """One run several times, to see how much its results scatter."""
    study = _study({})
    for number in range(12):
        assert choose({}, study.ask()) == {}
        study.tell(number, 1.0)
