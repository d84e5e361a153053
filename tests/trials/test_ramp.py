"""When a packed sweep starts a further process for a trial."""

from __future__ import annotations

from raytune_glm.trials.ramp import Ramp


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_processes_start_eight_at_a_time_until_a_trial_has_ended() -> None:
    ramp = Ramp(Clock())
    assert ramp.has_room(7)
    assert not ramp.has_room(8)
    for number in range(8):
        ramp.started(number)
    assert ramp.has_room(15)
    assert not ramp.has_room(16)


def test_short_trials_share_the_processes_that_are_up() -> None:
    clock = Clock()
    ramp = Ramp(clock)
    ramp.started(0)
    ramp.started(1)
    clock.now = 0.5
    ramp.ended(0)
    assert ramp.has_room(1)
    assert not ramp.has_room(2), "it would wait for a process, and get one of the two all the same"


def test_long_trials_have_further_processes_started() -> None:
    clock = Clock()
    ramp = Ramp(clock)
    ramp.started(0)
    clock.now = 60.0
    ramp.ended(0)
    assert ramp.has_room(7)


def test_a_sweep_whose_only_process_failed_at_once_starts_another() -> None:
    clock = Clock()
    ramp = Ramp(clock)
    ramp.started(0)
    ramp.ended(0)
    assert ramp.has_room(0)
