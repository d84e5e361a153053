"""Schedulers: whom they stop, asked through Ray's own interface."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raytune_glm.search import Scheduler
from raytune_glm.search.schedulers import STEP


def decisions(written: dict[str, Any], scores: list[float], *, mode: str, step: int) -> list[str]:
    """Report one score a trial at `step`, in turn, and give what is to happen to each."""
    settings: Any = TypeAdapter(Scheduler).validate_python(written)
    scheduler = settings.build(metric="score", mode=mode, max_steps=120)
    found = []
    for score in scores:
        trial = Trial("raytune_glm", stub=True)
        scheduler.on_trial_add(None, trial)
        found.append(scheduler.on_trial_result(None, trial, {STEP: step, "score": score}))
    return found


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
ASHA = {"name": "asha", "grace_period_steps": 40, "reduction_factor": 3}


@pytest.mark.parametrize(
    ("mode", "scores"), [("max", [0.9, 0.8, 0.1, 0.95]), ("min", [0.1, 0.2, 0.9, 0.05])]
)
def test_asha_stops_what_is_not_among_the_best_third(mode: str, scores: list[float]) -> None:
    assert decisions(ASHA, scores, mode=mode, step=40) == [GO, STOP, STOP, GO]


def test_asha_stops_nobody_within_the_grace_period() -> None:
    assert decisions(ASHA, [0.9, 0.8, 0.1], mode="max", step=39) == [GO, GO, GO]


def test_asha_ends_a_trial_at_the_longest_trials_last_step() -> None:
    assert decisions(ASHA, [0.9], mode="max", step=120) == [STOP]


def test_fifo_stops_nobody() -> None:
    assert decisions({"name": "fifo"}, [0.9, 0.8, 0.1], mode="max", step=40) == [GO, GO, GO]


def test_a_scheduler_says_from_which_step_on_it_looks_at_reports() -> None:
    read: Any = TypeAdapter(Scheduler).validate_python
    assert read(ASHA).needs_reports_before() == 40
    assert read({"name": "fifo"}).needs_reports_before() is None
