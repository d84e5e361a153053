"""Who waits for the reports of which trial of a pack host. Read next: `server`.

Ray Tune may start a process for a trial and then give the trial another one, which has become free
meanwhile: both come with the same visit, in either order, and one of them goes. So whoever comes
with a visit is told all its reports, and the visit goes on until nobody waits any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Report: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Report], None]
"""Takes a report; one who waits is known by it."""


@dataclass
class _Visit:
    waiting: list[Tell] = field(default_factory=list)
    told: list[Report] = field(default_factory=list)


class Visits:
    """The visits that are going on."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        """Begin with none; `on_end` is told the name of a visit that nobody waits for any more."""
        self._on_end = on_end
        self._visits: dict[str, _Visit] = {}
        self._dismissed: set[str] = set()
        # Held while telling, too, or somebody new could hear a later report before an earlier one.
        self._lock = threading.RLock()

    def join(self, name: str, tell: Tell, *, begin: Callable[[], None]) -> None:
        """Have somebody told the reports of a visit, those of before first.

        Args:
            name: The visit. Of one that was dismissed all there is to tell is that it is over.
            tell: Who is told.
            begin: Begins the visit, where nobody else is on it.
        """
        with self._lock:
            if name in self._dismissed:
                tell({"over": True})
            elif (visit := self._visits.get(name)) is not None:
                visit.waiting.append(tell)
                for report in visit.told:
                    tell(report)
            else:
                self._visits[name] = _Visit(waiting=[tell])
                begin()

    def tell(self, name: str, report: Report) -> None:
        """Tell a report to whoever waits for it."""
        with self._lock:
            visit = self._visits.get(name)
            if visit is not None:
                visit.told.append(report)
                for tell in visit.waiting:
                    tell(report)

    def leave(self, name: str, tell: Tell) -> None:
        """Have somebody wait no more; with the last one the visit ends, and may begin anew."""
        with self._lock:
            visit = self._visits.get(name)
            if visit is not None and tell in visit.waiting:
                visit.waiting.remove(tell)
                if not visit.waiting:
                    self._end(name)

    def dismiss(self, name: str) -> None:
        """End a visit for good, whoever waits, and whoever may come yet."""
        with self._lock:
            self._dismissed.add(name)
            if name in self._visits:
                self._end(name)

    def _end(self, name: str) -> None:
        del self._visits[name]
        self._on_end(name)
