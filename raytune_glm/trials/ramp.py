"""Whether a further trial is worth the start of a process for it. Read next: `bridge`."""

from __future__ import annotations

import time
from collections.abc import Callable

PROCESS_SECONDS = 3.0
"""What the start of a trial's process takes, roughly, on a busy core. A trial that is shorter had
better wait for a process that is up: Ray Tune gives those to trials whose own is still starting,
and ends that one."""


BURST = 8
"""Processes that start side by side."""


class Ramp:
    """Knows how many processes are up, and how long trials take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no process; `clock` gives seconds."""
        self._clock = clock
        self._running: dict[int, float] = {}
        self._up = 0
        self._last_took: float | None = None

    def started(self, number: int) -> None:
        """A trial has a process."""
        self._running[number] = self._clock()
        self._up = max(self._up, len(self._running))

    def ended(self, number: int) -> None:
        """A trial has given its process back."""
        began = self._running.pop(number, None)
        if began is not None:
            self._last_took = self._clock() - began

    def has_room(self, num_live: int) -> bool:
        """Whether a trial more than `num_live` finds a process, or is worth starting one for it."""
        is_long = self._last_took is None or self._last_took >= PROCESS_SECONDS
        return num_live < (self._up + BURST if is_long else max(1, self._up))
