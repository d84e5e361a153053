"""Whether a further trial, or a further host, is worth the start of a process.

Read next: `bridge`, `hosts`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

WORTH_SECONDS = 250.0
"""How long the trials that are left must take, as many at a time as now, for more processes to be
started. Each takes a core for some 2 s, and disturbs the host from then on: of 80 trials of 2 s on
two cores, eight processes took 66 s, six 61 s and four 58 s."""

LONG_SECONDS = 15.0
"""A trial that takes this long is worth a process of its own, however few are left. One of 6 to 8 s
takes 12 s while a second host and its processes start beside."""

FIRST = 4
"""Processes a host that start before it is known how long trials take: as many as gain most of what
sharing a pass gains, and as ASHA compares; on two cores more make the first trial wait."""

BURST = 8
"""Processes that start side by side, once they are worth it."""

SHORT_STEP_SECONDS = 0.2
"""Up to this an optimizer step is short. What a pass costs whatever is in it is then most of it;
threads do not share that, processes do. Two of one thread took a trial of 0.1 s a step 0.75 of what
one of two threads took it, and one of 0.5 s a step 1.05."""

WORTH_A_HOST_SECONDS = 60.0
"""How long the trials that are left must take for a second host, whose start takes its node 8 s or
so of a core, to be worth it."""


class Ramp:
    """Knows how many processes are up, and how long trials take."""

    def __init__(
        self,
        num_hosts: int,
        pack_size: int = FIRST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no process.

        Args:
            num_hosts: Pack hosts.
            pack_size: Most trials on one.
            clock: Gives seconds.
        """
        self._clock = clock
        self._num_hosts = num_hosts
        self._first = min(FIRST, pack_size)
        self._joined_at = -math.inf
        self._running: dict[int, float] = {}
        self._up = 0
        self._most = 0
        """Trials that there has been room for. It only grows: where none is proposed for a process
        that gets free, Ray Tune gives it to a trial whose own is still starting, and ends that."""
        self._last_took: float | None = None
        self._step_seconds: float | None = None

    def hosts_up(self, count: int) -> None:
        """So many hosts take trials; of how long one takes, the time before one more says nothing.

        Args:
            count: Hosts.
        """
        if count > self._num_hosts:
            self._num_hosts = count
            self._joined_at = self._clock()
            self._last_took = None

    def started(self, number: int) -> None:
        """A trial's process is up and at its host."""
        self._running[number] = self._clock()
        self._up = max(self._up, len(self._running))

    def ended(self, number: int) -> None:
        """A trial has given its process back."""
        began = self._running.pop(number, None)
        if began is not None and began >= self._joined_at:
            self._last_took = self._clock() - began

    def reported(self, step_seconds: float) -> None:
        """A trial has taken so long a step."""
        self._step_seconds = step_seconds

    def is_worth_a_host(self, num_left: int) -> bool:
        """Whether steps are short, and trials many enough, for a second host on the same CPUs.

        Args:
            num_left: Trials that have not begun.
        """
        if self._step_seconds is None or self._step_seconds > SHORT_STEP_SECONDS:
            return False
        return self._seconds_left(num_left) >= WORTH_A_HOST_SECONDS

    def has_room(self, num_live: int, num_left: int, *, may_start: bool = True) -> bool:
        """Whether a further trial finds a process, or is worth starting one for it.

        Args:
            num_live: Trials that have begun.
            num_left: Trials that have not.
            may_start: Whether a process beyond the first ones may start now.
        """
        left = self._seconds_left(num_left)
        is_worth_it = self._seconds >= LONG_SECONDS or left >= WORTH_SECONDS
        further = BURST if may_start and is_worth_it else 0
        self._most = max(self._most, self._num_first, self._up + further)
        return num_live < self._most

    def _seconds_left(self, num_left: int) -> float:
        """What the trials that have not begun take, as many at a time as there are processes.

        Those that start in any case, and may not yet be up, are counted.
        """
        return self._seconds * num_left / max(self._up, self._num_first, 1)

    @property
    def _num_first(self) -> int:
        """Processes that start in any case."""
        return self._first * self._num_hosts

    @property
    def _seconds(self) -> float:
        """What a trial takes: as the last one did, or longer than any has trained so far."""
        if self._last_took is not None:
            return self._last_took
        now = self._clock()
        since = (max(began, self._joined_at) for began in self._running.values())
        return max((now - then for then in since), default=0.0)
