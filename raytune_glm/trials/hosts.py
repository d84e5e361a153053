"""Pack hosts: one long-lived Ray Train worker a device, on which trials come and go.

    results/<name>/ray/hosts/
      0.json   the host's address      0.log   what it had to say      0.pace.json   measured
      0.controller.json   which process starts it again, once it has died

A host whose process dies is started again, and its trials wait for it. Where its node is gone with
it, they go on with another host at once, from their last checkpoints.

Read next: `host`, `packed`.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.config import SweepConfig, run_of
from raytune_glm.processes import ProcessMark
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.doors import RETRY_SECONDS, HostGoneError, connect
from raytune_glm.trials.host import controller_mark, host_trainer, serve
from raytune_glm.trials.pacing import HostWatch, pace_file
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.records import ResultsFolder

log = logging.getLogger(__name__)

_RAY_TRAIN_SETTINGS = {
    # Ray Train looks this often whether a worker has ended; its own 2 s are felt at a sweep's end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A process each host that watches for machines being taken away, which none survives anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Settings that only environment variables reach; what the user has set stays."""

HEAD_START_SECONDS = 15.0
"""How long trials' processes wait at most for those of the hosts, which have more to load."""
CLOSING_SECONDS = 20.0
"""How long to wait for a host to end before it is left to Ray, which ends what it started."""


@dataclass(frozen=True, kw_only=True)
class _Visit:
    host: int
    name: str


class Hosts:
    """The pack hosts of a sweep."""

    def __init__(self, sweep: SweepConfig, results: ResultsFolder, placement: Placement) -> None:
        """Make ready to start as many hosts as the placement has room for."""
        self._run = run_of(sweep)
        self._results = results
        assert placement.packs is not None, "only packed sweeps have hosts"
        self._packs = placement.packs
        self._folder = results.root / "ray" / "hosts"
        self._key = secrets.token_bytes(32)
        self._visits: dict[str, _Visit] = {}
        self._visit_numbers = itertools.count()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the hosts; trials may attach at once, and wait for them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, value in _RAY_TRAIN_SETTINGS.items():
            os.environ.setdefault(name, value)
        for number in range(len(self._packs.per_host)):
            self._door(number).unlink(missing_ok=True)
            pace_file(self._door(number)).unlink(missing_ok=True)
            self._controller_file(number).unlink(missing_ok=True)
            thread = threading.Thread(target=self._keep, args=(number,), name=f"pack-host-{number}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def await_processes(self) -> None:
        """Wait a while for the hosts' processes, which would share their cores with the trials'."""
        give_up_at = time.monotonic() + HEAD_START_SECONDS
        doors = [self._door(number) for number in range(len(self._threads))]
        while not all(door.exists() for door in doors) and time.monotonic() < give_up_at:
            time.sleep(RETRY_SECONDS)

    def _door(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _controller_file(self, number: int) -> Path:
        return self._folder / f"{number}.controller.json"

    def _keep(self, number: int) -> None:
        """Run one host under Ray Train, which starts it again where its process dies."""
        import ray.train

        resources = self._packs.per_host[number]
        try:
            host_trainer()(
                serve,
                train_loop_config={
                    "run": self._run.model_dump(mode="json"),
                    "door": str(self._door(number)),
                    "key": self._key,
                    "resources": resources,
                    "pack_size": self._packs.pack_size,
                    "is_forced": self._packs.is_forced,
                    "data_cache": str(self._results.data),
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1,
                    use_gpu=resources.get("GPU", 0) > 0,
                    resources_per_worker=resources,
                ),
                run_config=ray.train.RunConfig(
                    name=f"pack-host-{number}",
                    storage_path=str(self._results.root / "ray"),
                    failure_config=ray.train.FailureConfig(max_failures=self._run.run.max_failures),
                    callbacks=[controller_mark(self._controller_file(number))],  # type: ignore[list-item]  # Ray's own
                ),
            ).fit()
        except Exception as error:
            log.exception("pack host %d ended", number)
            if "moved" not in self._seen(number):
                # Those that wait at its door, or come to it later, learn that it will not open.
                files.write_json(self._door(number), {"error": str(error).strip()})

    def watch(self, progress: Progress) -> HostWatch:
        """Give what tells of the hosts' measurements while Ray Tune runs."""
        return HostWatch(
            self._results, self._packs, progress, folder=self._folder, look_after=self.look_after
        )

    def attachment(self, trial_id: str, attach: dict[str, Any]) -> dict[str, Any]:
        """Choose the host of a trial, the least busy one; give the trial's configuration."""
        number = self._least_busy(self._in_service() or range(len(self._packs.per_host)))
        visit = _Visit(host=number, name=f"{trial_id}-{next(self._visit_numbers)}")
        self._visits[trial_id] = visit
        return {
            "door": str(self._door(number)),
            "key": self._key,
            "attach": attach,
            "visit": visit.name,
        }

    def _least_busy(self, numbers: Collection[int]) -> int:
        busy = Counter(visit.host for visit in self._visits.values())
        return min(numbers, key=lambda host: busy[host])

    def _in_service(self) -> list[int]:
        """The hosts that serve trials, or are coming up to."""
        numbers = range(len(self._packs.per_host))
        return [host for host in numbers if self._seen(host).keys().isdisjoint({"moved", "error"})]

    def _seen(self, number: int) -> dict[str, Any]:
        """What is on a host's door; nothing before the host has come, and after it has left."""
        return files.read_json(self._door(number)) or {}

    def look_after(self) -> dict[int, str]:
        """Send the trials of hosts that are gone with their nodes to other hosts.

        Where there is no other, they wait until theirs is started again.

        Returns:
            Host -> what became of its trials, for those whose trials were sent away just now.
        """
        import ray

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        here = self._in_service()
        gone = [host for host in here if self._seen(host).get("node", "") not in {"", *alive}]
        others = [host for host in here if host not in gone]
        found = {}
        for host in gone if others else ():
            other = self._least_busy(others)
            files.write_json(self._door(host), {"moved": str(self._door(other))})
            moved = [trial for trial, visit in self._visits.items() if visit.host == host]
            for trial in moved:
                self._visits[trial] = replace(self._visits[trial], host=other)
            found[host] = f"with its node; {len(moved)} trial(s) go on with host {other}"
        return found

    def release(self, trial_id: str) -> None:
        """Take the slot of a trial that is over or set aside: its process may hold on to it."""
        visit = self._visits.pop(trial_id)
        self._tell(visit.host, {"dismiss": visit.name})

    def _tell(self, number: int, message: dict[str, Any]) -> None:
        try:
            with connect(self._door(number), self._key, patience=0) as connection:
                connection.send(message)
        except (ConnectionError, HostGoneError):
            log.warning("pack host %d was not there to be told %s", number, message)

    def score(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Have a host score a saved adapter.

        Args:
            asked: See `packing.server`.

        Returns:
            Split -> `values` and `rows` of `score.SplitScores`.

        Raises:
            RuntimeError: It could not.
        """
        with connect(self._door(0), self._key) as connection:
            connection.send({"score": asked})
            answer = connection.recv()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        scores: dict[str, Any] = answer["scores"]
        return scores

    def close(self) -> None:
        """Send the hosts home."""
        for number in range(len(self._threads)):
            self._tell(number, {"close": True})
        for number, thread in enumerate(self._threads):
            thread.join(0 if "moved" in self._seen(number) else CLOSING_SECONDS)
            if thread.is_alive():
                self._give_up(number)
                thread.join(CLOSING_SECONDS)

    def _give_up(self, number: int) -> None:
        """End the wait for a host that died and for which there is no room: its controller's."""
        mark = files.read_json(self._controller_file(number))
        if mark is not None:
            ProcessMark(**mark).kill()
