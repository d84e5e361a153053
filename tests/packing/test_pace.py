"""How many trials share a pass: what is cheaper by the clock, told of a device with known costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raytune_glm.packing.pace import Pace, Pacer


class Device:
    """Runs rounds that take the seconds that `cost` says a pass of so many trials does."""

    def __init__(
        self, cost: Callable[[int], float], *, pack_size: int = 8, is_forced: bool = False
    ) -> None:
        self.now = 0.0
        self.told: list[Pace] = []
        self.sizes: list[int] = []
        self.pacer = Pacer(
            pack_size,
            is_forced=is_forced,
            memory=lambda: 100,
            tell=self.told.append,
            clock=lambda: self.now,
        )
        self._cost = cost

    def run(self, num_trials: int, rounds: int) -> None:
        for _ in range(rounds):
            size = self.pacer.size(num_trials)
            self.sizes.append(size)
            passes = [min(size, num_trials - at) for at in range(0, num_trials, size)]
            seconds = sum(map(self._cost, passes))
            self.now += seconds
            self.pacer.took(seconds, 64 * num_trials)


def test_trials_share_a_pass_where_that_is_faster() -> None:
    device = Device(lambda size: 6 + 4 * size, pack_size=8)
    device.run(8, 40)
    [pace] = device.told
    assert pace.seconds == {8: pytest.approx(4.75), 1: pytest.approx(10)}
    assert pace.chosen == device.pacer.slots == 8
    assert device.sizes.count(1) == 2  # the whole of what measuring costs
    assert device.sizes[-1] == 8


def test_a_moment_in_which_a_large_pass_is_slow_does_not_keep_trials_apart() -> None:
    device = Device(lambda size: (0.2 if size > 1 and device.now < 12 else 0.006) + 0.004 * size)
    device.run(4, 10)
    device.run(3, 20)
    device.run(4, 25)
    assert 10 < device.now < 12
    assert device.told == [], "nothing is settled in the first seconds"
    assert device.sizes[-1] >= 4, "meanwhile they share"
    device.run(4, 300)
    [pace] = device.told
    assert pace.seconds == {4: pytest.approx(0.0055), 1: pytest.approx(0.010)}
    assert pace.chosen == 8


def test_what_stays_slow_keeps_trials_apart_though_passes_are_short() -> None:
    device = Device(lambda size: 0.01 * size**2)
    device.run(4, 80)
    assert device.told == []
    device.run(4, 80)
    assert [pace.chosen for pace in device.told] == [1]
    assert device.sizes[-1] == 1


def test_threads_that_change_while_it_measures_have_it_begin_again() -> None:
    threads = 1
    device = Device(lambda size: (6 + 4 * size) / threads)
    device.run(4, 5)
    threads = 2
    device.pacer.start_over()
    device.run(4, 20)
    [pace] = device.told
    assert pace.seconds == {4: pytest.approx(2.75), 1: pytest.approx(5)}


def test_one_trial_after_another_has_a_device_that_one_fills() -> None:
    device = Device(lambda size: 10.0 * size, pack_size=8)
    device.run(4, 40)
    assert [pace.chosen for pace in device.told] == [1]
    assert device.pacer.slots == 1
    assert device.sizes[-1] == 1


def test_smaller_passes_have_a_device_that_large_ones_slow_down() -> None:
    device = Device(lambda size: 6 + 4 * size if size <= 4 else 20.0 * size, pack_size=8)
    device.run(8, 40)
    assert [pace.chosen for pace in device.told] == [4]
    assert device.sizes[-1] == 4


def test_what_few_trials_told_is_asked_again_of_many() -> None:
    device = Device(lambda size: 6 + 4 * size, pack_size=8)
    for num_trials in (1, 2, 3, 6, 8):
        device.run(num_trials, 20)
    assert [pace.trials for pace in device.told] == [2, 6]
    assert device.sizes[-1] == 8


def test_a_size_that_the_user_forces_is_not_measured() -> None:
    device = Device(lambda size: 10.0 * size, pack_size=8, is_forced=True)
    device.run(8, 20)
    assert device.sizes == [8] * 20
    assert device.told == []


def test_after_memory_ran_out_passes_stay_small() -> None:
    device = Device(lambda size: 6 + 4 * size, pack_size=8)
    device.run(8, 3)
    device.pacer.shrink(4)
    device.run(8, 20)
    assert set(device.sizes[3:]) == {4}
