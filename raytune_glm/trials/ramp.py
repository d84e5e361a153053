"""Whether a further trial is worth the start of a process for it. Read next: `bridge`."""

from __future__ import annotations

import time
from collections.abc import Callable

WORTH_SECONDS = 1000.0
"""How much there must be left, as a trial's seconds times the trials that are left, for more
processes to be started. Each takes a core for some 2 s, and disturbs the host from then on: of 80
trials of 2 s on two cores, eight processes took 66 s, six 61 s and four 58 s."""

LONG_SECONDS = 10.0
"""A trial that takes this long is worth a process of its own, however few are left."""

FIRST = 4
"""Processes a host that start before it is known how long trials take: as many as gain most of what
sharing a pass gains, and as ASHA compares; on two cores more make the first trial wait."""

BURST = 8
"""Processes that start side by side, once they are worth it."""


class Ramp:
    """Knows how many processes are up, and how long trials take."""

    def __init__(self, num_hosts: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no process.

        Args:
            num_hosts: Pack hosts.
            clock: Gives seconds.
        """
        self._clock = clock
        self._first = FIRST * num_hosts
        self._running: dict[int, float] = {}
        self._up = 0
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

    def has_room(self, num_live: int, num_left: int) -> bool:
        """Whether a further trial finds a process, or is worth starting one for it.

        Args:
            num_live: Trials that have begun.
            num_left: Trials that have not.
        """
        seconds = self._seconds
        is_worth_it = seconds >= LONG_SECONDS or seconds * num_left >= WORTH_SECONDS
        return num_live < max(self._first, self._up + BURST if is_worth_it else self._up)

    @property
    def _seconds(self) -> float:
        """What a trial takes: as the last one did, or longer than any has trained so far."""
        if self._last_took is not None:
            return self._last_took
        now = self._clock()
        return max((now - began for began in self._running.values()), default=0.0)
