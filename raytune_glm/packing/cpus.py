"""The CPUs of a host that two processes train on: whoever trains alone has them all."""

from __future__ import annotations

import mmap
import time

import torch

IDLE_SECONDS = 1.0
"""How long the other process must have had nothing to train for its CPUs to be taken: between two
trials it has nothing for a moment, and at each change passes are measured anew."""

_BUSY = 0.0


class SharedCpus:
    """How many threads to compute with, by what the other process does."""

    def __init__(self, count: int) -> None:
        """Share `count` CPUs, at least two, with a process that is to be forked."""
        self._count = count
        self._own, self._other = 0, 1
        self._idle_since = memoryview(mmap.mmap(-1, 2 * 8)).cast("d")
        """When each began to be idle, by the clock that all processes of a host have; in memory
        that both see."""
        self._idle_since[self._own] = self._idle_since[self._other] = -IDLE_SECONDS

    def take_second_place(self) -> None:
        """Be the other one, in the process that was forked."""
        self._own, self._other = self._other, self._own

    def begin(self) -> bool:
        """There is something to train: compute with what is to be had now.

        Returns:
            Whether the threads are others than before.
        """
        self._idle_since[self._own] = _BUSY
        since = self._idle_since[self._other]
        is_alone = since != _BUSY and time.monotonic() - since >= IDLE_SECONDS
        count = self._count if is_alone else (self._count + 1 - self._own) // 2
        if count == torch.get_num_threads():
            return False
        torch.set_num_threads(count)
        return True

    def rest(self) -> None:
        """There is nothing to train."""
        if self._idle_since[self._own] == _BUSY:
            self._idle_since[self._own] = time.monotonic()

    def forget_other(self) -> None:
        """The other process is gone."""
        self._idle_since[self._other] = -IDLE_SECONDS
