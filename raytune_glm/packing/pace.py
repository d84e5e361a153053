"""How many trials a pass should hold, measured on passes that train.

Whether a pass of several trials is faster than a pass for each depends on the model, the rows and
the device, and is not guessed. Once trials are here, a few rounds (a micro-batch of every trial)
are taken together, and a few one trial at a time. All of them train, and what a trial learns does
not depend on its mates, so that measuring costs no more than the difference. Read next: `runner`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger(__name__)

WARM_ROUNDS = 2
"""Rounds after a trial came or went that are not measured: they allocate memory and fill caches."""
REPEATS = 2
"""Rounds of each size, at a time, that are; the fastest counts."""
DOUBT_SECONDS = 15.0
"""How long after the first measurement none keeps trials apart yet: processes that start beside, as
those of trials do, make threads wait for each other, and so a large pass look slow."""
WORTHWHILE = 0.95
"""A pass of several that takes a trial more than this share of a pass of its own is not worth it:
alone, the first trial is over sooner."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What was measured, and what was chosen."""

    trials: int
    """Trials that were there."""
    seconds: dict[int, float]
    """Trials a pass -> seconds of a trial's part of it."""
    chosen: int
    """Trials a pass from now on."""
    memory_bytes: int
    """Memory that the process, or its GPU's allocator, had in use with all of them there."""
    base_bytes: int
    """The same with the base alone."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, for a file."""
        return asdict(self)


class Pacer:
    """Says how many trials go into each pass, and finds out how many should."""

    def __init__(
        self,
        pack_size: int,
        *,
        is_forced: bool,
        memory: Callable[[], int],
        tell: Callable[[Pace], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with all trials in a pass.

        Args:
            pack_size: Most trials.
            is_forced: Whether so many it shall be, whatever is measured.
            memory: Gives the bytes that are in use; asked now, for the base alone.
            tell: Told of what was found.
            clock: Gives seconds.
        """
        self._clock = clock
        self._trusted_from: float | None = None
        """The time from which measurements may keep trials apart; none: there was none yet."""
        self._is_in_doubt = False
        """Whether one would have kept them apart, before that time."""
        self.slots = pack_size
        """Most trials at a time."""
        self._together = pack_size
        self._is_forced = is_forced
        self._memory = memory
        self.base_bytes = memory()
        """Bytes in use by the base alone."""
        self._tell = tell
        self._trials = 0
        self._found_with = 0
        self._measuring: Generator[int, float, None] | None = None
        self._size = pack_size
        self._tokens_a_trial = 0.0

    def size(self, num_trials: int) -> int:
        """Trials a pass of the coming round.

        Args:
            num_trials: Trials that can share a pass.
        """
        is_due = self._is_in_doubt and self._measuring is None and self._is_trusted
        if num_trials != self._trials or is_due:
            self._trials = num_trials
            self._is_in_doubt = False
            self._measuring = self._measure(num_trials) if self._is_open(num_trials) else None
            if self._measuring is not None:
                self._size = next(self._measuring)
        return max(1, self._size if self._measuring is not None else self._together)

    @property
    def _is_trusted(self) -> bool:
        return self._trusted_from is not None and self._clock() >= self._trusted_from

    def start_over(self) -> None:
        """Measure anew what is being measured: the host has more threads now, or fewer."""
        self._trials = 0

    def _is_open(self, num_trials: int) -> bool:
        """Whether so many trials may tell what is not known yet."""
        has_grown = num_trials >= 2 * self._found_with and self._together >= self._found_with
        return num_trials > 1 and not self._is_forced and has_grown

    def took(self, seconds: float, tokens: int) -> None:
        """Take what the round took that `size` was asked for; not of one that went wrong."""
        if self._measuring is None:
            return
        self._tokens_a_trial = tokens / self._trials
        try:
            self._size = self._measuring.send(seconds / tokens)
        except StopIteration:
            self._measuring = None

    def shrink(self, size: int) -> None:
        """Never take more than so many again: memory did not suffice."""
        self._together = max(1, size)
        self._is_forced, self._measuring = True, None

    def _measure(self, num_trials: int) -> Generator[int, float, None]:
        """Ask for rounds of several sizes, be sent what a token took in each, and choose."""
        if self._trusted_from is None:
            self._trusted_from = self._clock() + DOUBT_SECONDS
        for _ in range(WARM_ROUNDS):
            yield num_trials
        times: dict[int, float] = {}
        for size in (num_trials, 1):
            times[size] = yield from _fastest(size)
        size = num_trials // 2
        while size > 1 and min(times.values()) > WORTHWHILE * times[1]:
            times[size] = yield from _fastest(size)
            size //= 2
        best = min(times, key=times.__getitem__)
        chosen = 1 if times[best] > WORTHWHILE * times[1] else best
        self._is_in_doubt = chosen < num_trials and not self._is_trusted
        if not self._is_in_doubt:
            self._choose(num_trials, chosen, times)

    def _choose(self, num_trials: int, chosen: int, times: dict[int, float]) -> None:
        self._found_with = num_trials
        if chosen < num_trials:
            self._together = self.slots = chosen
        pace = Pace(
            trials=num_trials,
            seconds={size: took * self._tokens_a_trial for size, took in times.items()},
            chosen=self._together,
            memory_bytes=self._memory(),
            base_bytes=self.base_bytes,
        )
        log.info("%s", pace)
        self._tell(pace)


def _fastest(size: int) -> Generator[int, float, float]:
    found = []
    for _ in range(REPEATS):
        found.append((yield size))
    return min(found)
