"""What hosts measured of their passes, as the driver hears of it: printed, kept, and heeded.

    results/<name>/packs.json   host -> what `packing.pace.Pace` holds

Read next: `hosts`, `raytune_glm.packing.pace`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from raytune_glm import files
from raytune_glm.trials.cluster import PackPlacement
from raytune_glm.trials.doors import pace_file
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.records import ResultsFolder

if TYPE_CHECKING:
    from raytune_glm.trials.hosts import Hosts

LOOK_EVERY_S = 1.0
PACKS = "packs.json"


class HostWatch(Callback):
    """Looks for what hosts measured, while Ray Tune runs."""

    def __init__(
        self,
        hosts: Hosts,
        results: ResultsFolder,
        packs: PackPlacement,
        progress: Progress,
        *,
        folder: Path,
    ) -> None:
        """Watch the hosts whose doors are in `folder`.

        Args:
            hosts: The hosts.
            results: The sweep's folder.
            packs: How many hosts there are, and their largest pack.
            progress: Where to tell of it.
            folder: Where the hosts write.
        """
        self._hosts = hosts
        self._results = results
        self._packs = packs
        self._progress = progress
        self._folder = folder
        self._found: dict[int, dict[str, Any]] = {}
        self._next_look = 0.0

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Ray Tune looks for news, some ten times a second."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            self._look()
            for number, what in self._hosts.look_after().items():
                self._progress.lost(number, what)
            for news in self._hosts.news():
                self._progress.turned(news)

    def _look(self) -> None:
        for number in self._packs.numbers:
            pace = files.read_json(pace_file(self._folder / f"{number}.json"))
            before = self._found.get(number)
            if pace in (None, before):
                continue
            self._found[number] = pace
            files.write_json(self._results.root / PACKS, self._found)
            if before is None or pace["chosen"] != before["chosen"]:
                self._progress.paced(number, _words(pace))

    @property
    def room(self) -> int:
        """Trials that the hosts have a place for, as far as is known."""
        unknown = {"chosen": self._packs.pack_size}
        # Those that have left their device come back.
        hosts = self._hosts.serving.union(self._packs.hosts)
        room: int = sum(self._found.get(host, unknown)["chosen"] for host in hosts)
        return min(room, len(self._packs.per_host) * self._packs.pack_size)

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        # The Tuner pickles itself for its own way of resuming, which this project does not use.
        return Callback, ()


def _words(pace: dict[str, Any]) -> str:
    times = {int(size): 1000 * seconds for size, seconds in pace["seconds"].items()}
    shared = ", ".join(
        f"{time:.3g} ms among {size}" for size, time in sorted(times.items()) if size > 1
    )
    own = (pace["memory_bytes"] - pace["base_bytes"]) / pace["trials"]
    chosen = pace["chosen"]
    so = "one trial after another" if chosen == 1 else f"up to {chosen} share a pass"
    return (
        f"a trial's pass takes {times[1]:.3g} ms alone, {shared}; "
        f"memory {pace['base_bytes'] / 1e6:,.0f} MB and {own / 1e6:,.0f} MB a trial: {so}"
    )
