"""Whether a further trial is worth the start of a process.

Read next: `bridge`, `hosts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WORTH_SECONDS = 250.0
"""How long the trials that are left must take, as many at a time as now, for more processes to be
started. Each takes a core for some 2 s, and disturbs the host from then on: of 80 trials of 2 s on
two cores, eight processes took 66 s, six 61 s and four 58 s."""

LONG_SECONDS = 15.0
"""A trial that takes this long is worth a process of its own, however few are left."""

FIRST = 4
"""Processes a host that start before it is known how long trials take: as many as gain most of what
sharing a pass gains, and as ASHA compares; on two cores more make the first trial wait."""

FEW = 2
"""The same where a host has a second process, and no scheduler holds trials to each other: a trial
for each. Of 8 trials of 2 s on two cores, four took 26.1 s in the mean from the command's start to
its end, three 23.7 and two 23.8. With ASHA the first two would train on, having none to lose to."""

MORE_SECONDS = 30.0
"""How long the trials that are left must take for `FIRST` processes a host that begins with `FEW`:
among four of a host and its second process a trial takes 0.92 of what it takes among two."""

SPREAD_SECONDS = 60.0
"""The same, for `FIRST` processes more for each second process that is up."""

BURST = 8
"""Processes that start side by side, once they are worth it."""


class Ramp:
    """Knows how many processes are up, and how long trials take."""

    def __init__(
        self,
        num_hosts: int,
        pack_size: int = FIRST,
        *,
        begins_with_few: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no process.

        Args:
            num_hosts: Pack hosts.
            pack_size: Most trials on one.
            begins_with_few: Whether `FEW` processes a host start first, and not `FIRST`.
            clock: Gives seconds.
        """
        self._clock = clock
        self._num_hosts = num_hosts
        self._first = min(FIRST, pack_size)
        self._few = min(FEW, pack_size) if begins_with_few else self._first
        self._running: dict[int, float] = {}
        self._up = 0
        self._most = 0
        """Trials that there has been room for. It only grows: where none is proposed for a process
        that gets free, Ray Tune gives it to a trial whose own is still starting, and ends that."""
        self._last_took: float | None = None

    def started(self, number: int) -> None:
        """A trial's process is up and at its host."""
        self._running[number] = self._clock()
        self._up = max(self._up, len(self._running))

    def ended(self, number: int) -> None:
        """A trial has given its process back."""
        began = self._running.pop(number, None)
        if began is not None:
            self._last_took = self._clock() - began

    def has_room(self, num_live: int, num_left: int, *, num_serving: int | None = None) -> bool:
        """Whether a further trial finds a process, or is worth starting one for it.

        Args:
            num_live: Trials that have begun.
            num_left: Trials that have not.
            num_serving: Hosts, and second processes of theirs, that trials go to; none: the hosts.
        """
        self._most = max(self._most, self._few * self._num_hosts)
        if self._seconds_left(num_left) >= MORE_SECONDS:
            self._most = max(self._most, self._first * self._num_hosts)
        left = self._seconds_left(num_left)  # with those
        is_worth_it = self._seconds >= LONG_SECONDS or left >= WORTH_SECONDS
        further = BURST if is_worth_it else 0
        serving = self._num_hosts if num_serving is None else num_serving
        spread = self._first * serving if left >= SPREAD_SECONDS else 0
        self._most = max(self._most, spread, self._up + further)
        return num_live < self._most

    def _seconds_left(self, num_left: int) -> float:
        """What the trials that have not begun take, as many at a time as there are processes.

        Those that there has been room for, and that may not yet be up, are counted.
        """
        return self._seconds * num_left / max(self._up, self._most, 1)

    @property
    def _seconds(self) -> float:
        """What a trial takes: as the last one did, or longer than any has trained so far."""
        if self._last_took is not None:
            return self._last_took
        now = self._clock()
        return max((now - began for began in self._running.values()), default=0.0)
