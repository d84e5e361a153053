"""Who has the devices, pack hosts or trials with workers of their own, as trials come and go."""

from __future__ import annotations

from collections.abc import Collection

from raytune_glm.trials.turns import Turns


class Devices:
    """Devices, each with room for `room` trials with workers of their own, and what happened."""

    def __init__(self, num_hosts: int, *, room: float = 1) -> None:
        self.events: list[str] = []
        self._room = room
        self.turns = Turns(
            num_hosts,
            room_on=self._room_on,
            seat=lambda trial, host: self.events.append(f"{trial} on {host}"),
            send_off=lambda trial: self.events.append(f"{trial} apart"),
            close=lambda host: self.events.append(f"close {host}"),
            open_again=lambda host: self.events.append(f"open {host}"),
        )

    def _room_on(self, hosts: Collection[int]) -> int:
        return int(len(hosts) * self._room)

    def come(self, *trials: str) -> list[str]:
        """Have trials come, those in capitals with workers of their own; give what happened."""
        for trial in trials:
            self.turns.arrive(trial, needs_workers=trial.isupper())
        return self._since()

    def go(self, *trials: str) -> list[str]:
        for trial in trials:
            self.turns.leave(trial)
        return self._since()

    def _since(self) -> list[str]:
        events, self.events = self.events, []
        return events


def test_trials_for_hosts_are_spread_over_them_and_never_wait() -> None:
    devices = Devices(2)
    assert devices.come("a", "b", "c") == ["a on 0", "b on 1", "c on 0"]
    devices.go("a", "c")
    assert devices.come("d") == ["d on 0"]


def test_a_device_changes_hands_in_the_order_in_which_trials_came() -> None:
    devices = Devices(1)
    assert devices.come("a", "b") == ["a on 0", "b on 0"]
    assert devices.come("X") == [], "those on the host are let finish"
    assert devices.come("c", "Y") == [], "they came after X"
    assert devices.go("a") == []
    assert devices.go("b") == ["close 0", "X apart"]
    assert devices.go("X") == ["open 0", "c on 0"], "c came before Y"
    assert devices.come("d") == [], "Y came before d"
    assert devices.go("c") == ["close 0", "Y apart"]
    assert devices.go("Y") == ["open 0", "d on 0"]
    assert devices.turns.serving == {0}


def test_a_device_that_was_left_has_as_many_trials_as_it_has_room_for_and_is_left_once() -> None:
    devices = Devices(1, room=2)
    assert devices.come("X", "Y", "Z") == ["close 0", "X apart", "Y apart"]
    assert devices.go("X") == ["Z apart"]
    assert devices.go("Y", "Z") == []
    assert devices.come("W") == ["W apart"], "nobody has asked for the host since"
    assert devices.go("W") == []
    assert devices.come("a") == ["open 0", "a on 0"]


def test_what_is_free_on_a_device_is_not_given_past_an_older_trial_of_its_host() -> None:
    devices = Devices(1, room=2)
    devices.come("X")
    assert devices.come("a", "Y") == [], "Y has room beside X, and came after a"
    assert devices.go("X") == ["open 0", "a on 0"]
    assert devices.go("a") == ["close 0", "Y apart"]


def test_an_idle_device_is_kept_for_an_older_trial_that_needs_more_than_it() -> None:
    devices = Devices(3, room=1 / 2)
    assert devices.come("X") == ["close 0", "close 1", "X apart"]
    assert devices.go("X") == []
    assert devices.come("a", "b") == ["a on 2", "open 0", "b on 0"]
    assert devices.come("Y", "c") == ["c on 2"], "device 1 is idle, and half of what Y needs"
    assert devices.go("b") == ["close 0", "Y apart"]


def test_of_several_hosts_the_least_busy_one_closes_and_one_stays() -> None:
    devices = Devices(3)
    devices.come("a", "b", "c")
    devices.go("b")
    assert devices.come("X") == ["close 1", "X apart"]
    assert devices.come("Y") == [], "hosts 0 and 2 have a trial each"
    assert devices.come("d") == ["d on 2"], "not on 0, which is to close for Y"
    assert devices.go("a") == ["close 0", "Y apart"]
    assert devices.come("Z") == []
    assert devices.come("e") == ["e on 2"], "the last host stays while others have devices"
    assert devices.go("X") == ["Z apart"]
    assert devices.go("Y", "Z") == []
    assert devices.come("f") == ["open 0", "f on 0"], "an idle device rather than a busy host"


def test_a_trial_of_many_workers_gets_all_devices_at_once() -> None:
    devices = Devices(3, room=1 / 3)
    devices.come("a", "b", "c")
    assert devices.come("X", "d") == []
    assert devices.go("a", "b") == []
    assert devices.go("c") == ["close 0", "close 1", "close 2", "X apart"]
    assert devices.go("X") == ["open 0", "d on 0"]
    assert devices.come("e") == ["open 1", "e on 1"]


def test_a_trial_that_gives_up_waiting_holds_nobody_back() -> None:
    devices = Devices(1)
    devices.come("a", "X", "b")
    assert devices.turns.is_waiting("X")
    assert devices.go("X") == ["b on 0"]
    assert not devices.turns.is_waiting("b")


def test_trials_of_a_host_that_is_gone_count_for_the_one_that_took_them() -> None:
    devices = Devices(2)
    devices.come("a", "b")
    devices.turns.lose(0, other=1)
    assert devices.come("c") == ["c on 1"]
    assert devices.come("X") == []
    assert devices.go("b", "c") == []
    assert devices.go("a") == ["close 1", "X apart"]


def test_the_last_host_stays_for_those_who_are_to_learn_why_it_is_gone() -> None:
    devices = Devices(2)
    devices.turns.lose(0)
    devices.turns.lose(1)
    assert devices.come("a") == ["a on 1"]


def test_a_trial_that_fits_nowhere_any_more_is_left_to_ray_and_blocks_nobody() -> None:
    devices = Devices(2, room=1 / 2)
    devices.turns.lose(1)
    assert devices.come("X", "a") == ["X apart", "a on 0"]
