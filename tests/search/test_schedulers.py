"""Schedulers: whom they stop, asked through Ray's own interface."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict

from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search import Scheduler
from raytune_glm.search.schedulers import STEP, Contest

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
ASHA = {"name": "asha", "grace_period_steps": 40, "reduction_factor": 3}
MEDIAN = {"name": "median", "grace_period_steps": 40, "min_trials": 2}


class Race:
    """Trials that report to a scheduler."""

    def __init__(self, written: dict[str, Any], *, mode: Literal["min", "max"] = "max") -> None:
        settings: Any = TypeAdapter(Scheduler).validate_python(written)
        self.replaced: list[tuple[int, int]] = []
        self.unit = settings.unit or "steps"
        self.scheduler = settings.build(
            Contest(
                metric="score",
                mode=mode,
                unit=self.unit,
                longest=120,
                replace=lambda loser, donor: self.replaced.append((loser, donor)),
            )
        )
        self._trials: dict[int, Trial] = {}

    def report(
        self, number: int, step: float, score: float, *, beside: dict[int, float] | None = None
    ) -> str:
        if number not in self._trials:
            self._trials[number] = Trial("raytune_glm", stub=True)
            self._trials[number].config = {"number": number}
            self.scheduler.on_trial_add(None, self._trials[number])
        field = STEP if self.unit == "steps" else "device_seconds"
        told = {field: step, "score": score, "beside": _as_told(beside or {})}
        # As Ray Tune does before it asks.
        told = flatten_dict(told)
        return str(self.scheduler.on_trial_result(None, self._trials[number], told))

    def report_all(self, scores: list[float], *, step: float) -> list[str]:
        return [self.report(number, step, score) for number, score in enumerate(scores)]


def _as_told(scores: dict[int, float]) -> list[tuple[str, float]]:
    """By the names of trials' folders."""
    return [(f"{number:04d}", score) for number, score in scores.items()]


def without(scores: dict[int, float], number: int) -> dict[int, float]:
    return {other: score for other, score in scores.items() if other != number}


@pytest.mark.parametrize(
    ("mode", "scores"), [("max", [0.9, 0.8, 0.1, 0.95]), ("min", [0.1, 0.2, 0.9, 0.05])]
)
def test_asha_stops_what_is_not_among_the_best_third(
    mode: Literal["min", "max"], scores: list[float]
) -> None:
    assert Race(ASHA, mode=mode).report_all(scores, step=40) == [GO, STOP, STOP, GO]


def test_asha_stops_nobody_within_the_grace_period() -> None:
    assert Race(ASHA).report_all([0.9, 0.8, 0.1], step=39) == [GO, GO, GO]


def test_asha_ends_a_trial_at_the_longest_trials_last_step() -> None:
    assert Race(ASHA).report_all([0.9], step=120) == [STOP]


def test_asha_counts_in_device_seconds_where_it_is_written_so() -> None:
    race = Race({"name": "asha", "grace_period_device_seconds": 7.5, "reduction_factor": 2})
    assert race.report_all([0.9, 0.1], step=7.4) == [GO, GO]
    assert race.report_all([0.9, 0.1], step=7.6) == [GO, STOP]


def test_hyperband_has_brackets_with_longer_and_longer_grace_up_to_none_stopped() -> None:
    race = Race({"name": "hyperband", "grace_period_steps": 40, "reduction_factor": 3})
    rungs = [[milestone for milestone, _ in b._rungs] for b in race.scheduler._brackets]
    assert rungs == [[120.0, 40.0], [120.0]]


def test_median_stops_what_never_came_to_the_others_mean() -> None:
    race = Race(MEDIAN)
    assert race.report_all([0.5, 0.6, 0.7], step=40) == [GO, GO, GO]
    # Its best is 0.5, the others' means are 0.6, 0.7 and, over two reports, 0.55.
    assert race.report(0, 80, 0.6) == GO
    assert race.report(3, 40, 0.5) == STOP


def test_median_waits_for_enough_trials_and_for_the_grace_period() -> None:
    race = Race(MEDIAN)
    assert race.report_all([0.9, 0.1], step=40) == [GO, GO]
    assert race.report_all([0.9, 0.8, 0.1], step=39) == [GO, GO, GO]


def test_fifo_stops_nobody() -> None:
    assert Race({"name": "fifo"}).report_all([0.9, 0.8, 0.1], step=40) == [GO, GO, GO]


PBT = {"name": "pbt", "interval_steps": 20, "quantile": 0.25}


def test_pbt_stops_the_worst_quarter_and_names_one_of_the_best_for_it() -> None:
    race = Race(PBT)
    assert race.report_all([0.5, 0.9, 0.6, 0.1], step=20) == [GO, GO, GO, STOP]
    assert race.replaced == [(3, 1)]


def test_pbt_decides_once_an_interval_and_a_copy_waits_for_its_first() -> None:
    race = Race(PBT)
    assert race.report_all([0.5, 0.9, 0.6, 0.4], step=10) == [GO, GO, GO, GO]
    race.report_all([0.5, 0.9, 0.6, 0.7], step=20)
    assert race.report(0, 30, 0.1) == GO
    assert race.report(4, 30, 0.0) == GO
    assert race.report(4, 40, 0.0) == STOP


def test_pbt_forgets_who_has_ended() -> None:
    race = Race(PBT)
    race.report_all([0.5, 0.9, 0.6], step=20)
    race.scheduler.on_trial_complete(None, race._trials[1], {})
    assert race.report(3, 20, 0.1) == GO  # three are left: a quarter of them is nobody


def test_a_trial_that_must_go_on_is_not_stopped_and_one_that_is_over_is() -> None:
    race = Race(ASHA)
    inner = race.scheduler
    race.scheduler = RuledScheduler(
        inner, must_stop=lambda number, report: number == 0, must_go_on=lambda number: number == 2
    )
    assert race.report_all([0.9, 0.5, 0.4], step=40) == [STOP, STOP, GO]


def test_a_scheduler_says_from_which_step_on_it_looks_at_reports() -> None:
    read: Any = TypeAdapter(Scheduler).validate_python
    assert read(ASHA).needs_reports_before() == 40
    assert read(PBT).needs_reports_before() == 20
    assert read({"name": "fifo"}).needs_reports_before() is None
    seconds = {"name": "median", "grace_period_device_seconds": 10}
    assert read(seconds).needs_reports_before() is None


def test_of_trials_that_report_together_the_best_share_goes_on_in_any_order() -> None:
    """Each is held to the others' 67th percentile; of Ray's, one to all four would go on."""
    scores = {0: 0.9, 1: 0.8, 2: 0.1, 3: 0.95}
    for order in itertools.permutations(scores):
        race = Race(ASHA)
        for number in order:  # all are there before one reports
            race.report(number, 20, 0.0)
        decisions = {
            number: race.report(number, 40, scores[number], beside=without(scores, number))
            for number in order
        }
        assert decisions == {0: GO, 1: STOP, 2: STOP, 3: GO}
        # One that comes later is held to the same four scores.
        assert race.report(4, 40, 0.85) == STOP
        assert race.report(5, 40, 0.97) == GO


def test_a_mate_that_never_reports_counts_as_it_was_told() -> None:
    race = Race(ASHA)
    race.report(1, 20, 0.0)
    assert race.report(0, 40, 0.5, beside={1: 0.9}) == STOP
    assert race.report(2, 40, 0.6) == STOP


def test_what_is_told_of_mates_counts_in_the_one_unit_that_they_share() -> None:
    race = Race({"name": "asha", "grace_period_device_seconds": 40, "reduction_factor": 3})
    race.report(1, 20, 0.0)
    assert race.report(0, 40, 0.5, beside={1: 0.9}) == GO
