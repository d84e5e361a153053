"""When a packed sweep starts a further process for a trial."""

from __future__ import annotations

from raytune_glm.trials.ramp import Ramp


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def four_started() -> tuple[Clock, Ramp]:
    """A host whose first four trials have just begun."""
    clock = Clock()
    ramp = Ramp(1, clock=clock)
    for number in range(4):
        ramp.started(number)
    return clock, ramp


def test_four_processes_a_host_start_before_it_is_known_how_long_trials_take() -> None:
    ramp = Ramp(2, clock=Clock())
    assert ramp.has_room(7, num_left=100)
    assert not ramp.has_room(8, num_left=100)
    for number in range(8):
        ramp.started(number)
    assert not ramp.has_room(8, num_left=92), "none has trained for a while yet"


def test_short_trials_share_the_processes_that_are_up() -> None:
    clock, ramp = four_started()
    clock.now = 2.0
    ramp.ended(0)
    clock.now = 60.0
    assert ramp.has_room(3, num_left=4)
    assert not ramp.has_room(4, num_left=4)


def test_as_short_ones_have_further_processes_started_where_there_are_many_left() -> None:
    clock, ramp = four_started()
    clock.now = 2.0
    ramp.ended(0)
    assert not ramp.has_room(4, num_left=124)
    assert ramp.has_room(11, num_left=500)
    assert not ramp.has_room(12, num_left=500), "eight at a time: each takes a core for seconds"


def test_trials_that_train_for_a_while_have_further_processes_started() -> None:
    clock, ramp = four_started()
    clock.now = 14.0
    assert not ramp.has_room(4, num_left=1)
    clock.now = 15.0
    assert ramp.has_room(4, num_left=1)


def test_processes_that_are_starting_are_not_called_off_by_a_trial_that_was_short() -> None:
    clock, ramp = four_started()
    clock.now = 20.0
    assert ramp.has_room(11, num_left=100)
    ramp.started(4)
    clock.now = 21.0
    ramp.ended(4)
    assert ramp.has_room(11, num_left=99), "as many as before, though the last one took a second"
    assert not ramp.has_room(12, num_left=99), "and no more"


def test_a_sweep_whose_only_process_failed_at_once_starts_another() -> None:
    ramp = Ramp(1, clock=Clock())
    ramp.started(0)
    ramp.ended(0)
    assert ramp.has_room(0, num_left=1)


def test_hosts_that_begin_with_a_trial_for_each_process_go_on_by_what_is_left() -> None:
    clock = Clock()
    ramp = Ramp(1, begins_with_few=True, clock=clock)
    assert ramp.has_room(1, num_left=80)
    assert not ramp.has_room(2, num_left=80)
    ramp.started(0)
    ramp.started(1)
    clock.now = 2.0
    ramp.ended(0)
    assert not ramp.has_room(2, num_left=29, num_serving=2), "29 s, two at a time"
    assert ramp.has_room(3, num_left=78, num_serving=2), "78 s, two at a time"
    assert not ramp.has_room(4, num_left=78, num_serving=2), "39 s with those that are starting"
    ramp.started(2)
    ramp.started(3)
    assert not ramp.has_room(4, num_left=119, num_serving=2), "less than a minute, four at a time"
    assert not ramp.has_room(4, num_left=120), "there is no second process yet"
    assert ramp.has_room(7, num_left=120, num_serving=2)
    assert not ramp.has_room(8, num_left=120, num_serving=2)


def test_a_pack_with_room_for_few_has_no_more_processes_on_either_process_of_its_host() -> None:
    clock = Clock()
    ramp = Ramp(1, pack_size=1, begins_with_few=True, clock=clock)
    assert not ramp.has_room(1, num_left=80)
    ramp.started(0)
    clock.now = 2.0
    ramp.ended(0)
    assert ramp.has_room(1, num_left=78, num_serving=2)
    assert not ramp.has_room(2, num_left=78, num_serving=2)
