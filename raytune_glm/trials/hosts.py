"""Pack hosts: one long-lived Ray Train worker a device, on which trials come and go.

    results/<name>/ray/hosts/
      0.json   the host's address      0.log   what it had to say      0.pace.json   measured
      0003-5.turn.json    where a trial goes that had to wait, or whose host could not go on with it

A host whose process dies is started again, and its trials wait for it. Where its node is gone with
it, they go on with another host at once, from their last checkpoints. Hosts leave their devices to
trials that need workers of their own, and come back. Without GPUs, and where passes are short, each
host has a second process: to trials it is a further host, and it comes and goes with the first.

Read next: `turns`, `host`, `packed`.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files, ladder
from raytune_glm.config import SweepConfig, run_of, trial_run
from raytune_glm.config.execution import hosting_obstacle
from raytune_glm.errors import ConfigError
from raytune_glm.trials.cluster import Placement, num_places
from raytune_glm.trials.doors import (
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    HostGoneError,
    connect,
)
from raytune_glm.trials.host import serve
from raytune_glm.trials.host_trainer import OWN_SETTINGS, SETTINGS, host_trainer
from raytune_glm.trials.progress import News, Progress
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.turns import Turns

if TYPE_CHECKING:
    from raytune_glm.trials.pacing import HostWatch

log = logging.getLogger(__name__)

HEAD_START_SECONDS = 15.0
"""How long trials' processes wait at most for those of the hosts, which have more to load."""
CLOSING_SECONDS = 20.0
"""How long to wait for a host to end before it is left to Ray, which ends what it started."""


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """A trial's stay: on a host, or on devices that hosts have left."""

    name: str
    host: int | None = None
    """The host; none: it waits for its turn, or has workers of its own."""
    was_queued: bool = False
    """Whether it had to wait for its turn."""


class Hosts:
    """The pack hosts of a sweep."""

    def __init__(self, sweep: SweepConfig, results: ResultsFolder, placement: Placement) -> None:
        """Make ready to start as many hosts as the placement has room for."""
        self._run = run_of(sweep)
        self._is_population = sweep.search.scheduler.wants_all_at_once
        self._results = results
        assert placement.packs is not None, "only packed sweeps have hosts"
        self._placement = placement
        self._packs = placement.packs
        self._folder = results.root / "ray" / "hosts"
        self._key = secrets.token_bytes(32)
        # Here and not in the hosts' threads, whose imports would share a core with all else.
        self._trainer = host_trainer()
        self._visits: dict[str, _Visit] = {}
        self._visit_numbers = itertools.count()
        self._starts = itertools.count()
        self._threads: dict[int, threading.Thread] = {}
        self._given_up = threading.Event()
        self._turns = Turns(
            len(self._packs.hosts),
            room_on=self._room_on,
            seat=self._seat,
            send_off=self._send_off,
            close=self._leave_device,
            open_again=self._come_back,
        )
        self._news: list[News] = []
        self._lost: dict[int, str] = {}
        """What became of the trials of second processes that died, untold yet."""
        self._without_second: set[int] = set()
        """Hosts whose second process is known to be gone, or never came."""

    def start(self) -> None:
        """Start the hosts; trials may attach at once, and wait for them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        os.environ.update(OWN_SETTINGS)
        for left in self._folder.glob("*.json*"):
            left.unlink()
        for number in self._packs.hosts:
            self._start(number)

    def _start(self, number: int) -> None:
        before = self._threads.get(number)
        self._threads[number] = threading.Thread(
            target=self._keep, args=(number, before), name=f"pack-host-{number}", daemon=True
        )
        self._threads[number].start()

    def await_processes(self) -> None:
        """Wait a while for the hosts' processes, which would share their cores with the trials'."""
        give_up_at = time.monotonic() + HEAD_START_SECONDS
        doors = [self._door(number) for number in self._threads]
        while not all(door.exists() for door in doors) and time.monotonic() < give_up_at:
            time.sleep(RETRY_SECONDS)

    def _door(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _second_door(self, host: int) -> str | None:
        second = self._packs.second_of(host)
        return None if second is None else str(self._door(second))

    def _close_second_door(self, host: int) -> None:
        """Send those who come to a host's second process to the host."""
        second = self._packs.second_of(host)
        if second is not None:
            files.write_json(self._door(second), {"moved": str(self._door(host))})

    def _turn_file(self, visit: str) -> Path:
        return self._folder / f"{visit}.turn.json"

    def _keep(self, number: int, before: threading.Thread | None) -> None:
        """Run one host under Ray Train, which starts it again where its process dies.

        Args:
            number: The host.
            before: What ran it before it left its device.
        """
        import ray.train

        if before is not None:
            before.join()
        resources = self._packs.per_host[number]
        try:
            self._trainer(
                serve,
                train_loop_config={
                    "run": self._run.model_dump(mode="json"),
                    "door": str(self._door(number)),
                    "second_door": self._second_door(number),
                    "key": self._key,
                    "resources": resources,
                    "pack_size": self._packs.pack_size,
                    "is_forced": self._packs.is_forced,
                    "data_cache": str(self._results.data),
                    "results": str(self._results.root),
                    "follows": before is not None,
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1,
                    use_gpu=resources.get("GPU", 0) > 0,
                    resources_per_worker=dict(resources),
                ),
                run_config=ray.train.RunConfig(
                    name=f"pack-host-{next(self._starts)}",
                    storage_path=str(self._results.root / "ray"),
                    failure_config=ray.train.FailureConfig(max_failures=self._run.run.max_failures),
                ),
                given_up=self._given_up,
            ).fit()
        except Exception as error:
            if self._given_up.is_set():
                return
            log.exception("pack host %d ended", number)
            if "moved" not in self._seen(number):
                # Those that wait at its door, or come to it later, learn that it will not open.
                files.write_json(self._door(number), {"error": str(error).strip()})
                self._close_second_door(number)

    def watch(self, progress: Progress) -> HostWatch:
        """Give what looks after the hosts, and tells of them, while Ray Tune runs.

        Args:
            progress: Where to tell.
        """
        from raytune_glm.trials.pacing import HostWatch  # and with it Ray Tune

        return HostWatch(
            self,
            self._results,
            self._packs,
            progress,
            folder=self._folder,
        )

    @property
    def serving(self) -> set[int]:
        """The hosts that trials go to, and those of their second processes that are up."""
        seconds = (self._packs.second_of(host) for host in self._turns.serving)
        up = {n for n in seconds if n is not None and "address" in self._seen(n)}
        return self._turns.serving | up

    def attachment(self, trial_id: str, attach: dict[str, Any]) -> dict[str, Any]:
        """Have a trial wait for its turn, or give it the least busy host.

        Args:
            trial_id: The trial.
            attach: What `packing.server` and `trainable.train_down_the_ladder` take.

        Returns:
            What `packed.PackedTrial` takes, but for `from_step`.
        """
        self._lose_seconds()
        for number in set(self._packs.hosts).difference(self._in_service()):
            self._turns.lose(number)
        visit = f"{trial_id}-{next(self._visit_numbers)}"
        self._visits[trial_id] = _Visit(name=visit)
        attach = {**attach, "may_leave": self._may_leave}
        self._turns.arrive(trial_id, needs_workers=self._needs_workers(attach))
        self._mark_if_waiting(trial_id)
        turn = str(self._turn_file(visit))
        given = {"key": self._key, "attach": attach, "visit": visit, "turn": turn}
        host = self._visits[trial_id].host
        return given if host is None else {**given, "door": str(self._door(host))}

    def _needs_workers(self, attach: dict[str, Any]) -> bool:
        run = trial_run(self._run, attach["overrides"])
        if hosting_obstacle(run) is not None:
            return True
        try:
            run = ladder.applied(run, Path(attach["folder"]))
        except ConfigError:
            return False  # its host will say what is wrong with it
        return self._may_leave and hosting_obstacle(run) is not None

    @property
    def _may_leave(self) -> bool:
        """Whether a trial for which a host has no memory may go on with workers of its own.

        Not one of a population, which goes on together; nor where no device has room for workers.
        """
        return not self._is_population and self._room_on(self._packs.hosts) > 0

    def leave_host(self, trial_id: str) -> None:
        """Have a trial that its host cannot go on with wait for workers of its own."""
        self._turns.leave(trial_id)
        self._visits[trial_id] = replace(self._visits[trial_id], host=None, was_queued=False)
        self._turns.arrive(trial_id, needs_workers=True)
        self._mark_if_waiting(trial_id)

    def _mark_if_waiting(self, trial_id: str) -> None:
        if self._turns.is_waiting(trial_id):
            self._visits[trial_id] = replace(self._visits[trial_id], was_queued=True)

    def _room_on(self, numbers: Collection[int]) -> int:
        """How many trials can have workers of their own on the devices of some hosts."""
        places = num_places(
            (self._packs.per_host[number] for number in numbers),
            per_worker=self._placement.per_worker,
        )
        return places // self._run.run.num_workers

    def _seat(self, trial_id: str, host: int) -> None:
        """Have a trial go to a host, or to its second process, whichever has fewer."""
        second = None if host in self._without_second else self._packs.second_of(host)
        counts = Counter(visit.host for visit in self._visits.values())
        number = second if second is not None and counts[second] < counts[host] else host
        visit = self._visits[trial_id] = replace(self._visits[trial_id], host=number)
        self._tell_of_turn(trial_id, f"to host {number}")
        if visit.was_queued:
            files.write_json(self._turn_file(visit.name), {"door": str(self._door(number))})

    def _send_off(self, trial_id: str) -> None:
        self._tell_of_turn(trial_id, "with workers of its own")
        files.write_json(self._turn_file(self._visits[trial_id].name), {"start_workers": True})

    def _tell_of_turn(self, trial_id: str, where: str) -> None:
        if self._visits[trial_id].was_queued:
            self._news.append(News("trial", int(trial_id), "its turn", where))

    def is_waiting(self, trial_id: str) -> bool:
        """Whether a trial waits for a device."""
        return self._turns.is_waiting(trial_id)

    def _leave_device(self, number: int) -> None:
        """Have a host close once it is up; workers that follow wait until Ray has its device."""
        self._news.append(News("host", number, "left", "its device, to a trial's own workers"))
        threading.Thread(
            target=self._send_home, args=(number, PATIENCE_SECONDS), daemon=True
        ).start()

    def _send_home(self, host: int, patience: float = 0) -> bool:
        """Have a host and its second process close; say whether the host was there to be told."""
        second = self._packs.second_of(host)
        if second is not None and "address" in self._seen(second):
            self._tell(second, {"close": True})
        return self._tell(host, {"close": True}, patience)

    def _come_back(self, number: int) -> None:
        self._news.append(News("host", number, "back", "on its device"))
        self._start(number)

    def call_off(self, trial_id: str) -> bool:
        """End a trial that waits for its turn; say whether it did, and so will end at once."""
        if not self._turns.is_waiting(trial_id):
            return False
        self._turns.leave(trial_id)
        files.write_json(self._turn_file(self._visits[trial_id].name), {"over": True})
        return True

    def _in_service(self) -> list[int]:
        """The hosts that serve trials, or are coming up to."""
        return [number for number in self._packs.hosts if self._is_in_service(number)]

    def _is_in_service(self, number: int) -> bool:
        return self._seen(number).keys().isdisjoint({"moved", "error"})

    def _seen(self, number: int) -> dict[str, Any]:
        """What is on a host's door; nothing before the host has come, and after it has left."""
        return files.read_json(self._door(number)) or {}

    def look_after(self) -> dict[int, str]:
        """Send the trials of hosts that are gone with their nodes to other hosts.

        Where there is no other, they wait until theirs is started again. Those of a second process
        that died are sent to its host.

        Returns:
            Host -> what became of its trials, for those whose trials were sent away just now.
        """
        import ray

        self._lose_seconds()
        found, self._lost = self._lost, {}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        here = self._turns.serving.intersection(self._in_service())
        gone = [host for host in here if self._seen(host).get("node", "") not in {"", *alive}]
        others = [host for host in here if host not in gone]
        for host in gone if others else ():
            other = self._turns.least_busy(others)
            files.write_json(self._door(host), {"moved": str(self._door(other))})
            self._close_second_door(host)
            count = self._move(host, other) + self._move(self._packs.second_of(host), other)
            self._turns.lose(host, other=other)
            found[host] = f"with its node; {count} trial(s) go on with host {other}"
        return found

    def _move(self, number: int | None, other: int) -> int:
        """Note that the trials of a process that is gone are with another; give their count."""
        moved = [] if number is None else [t for t, v in self._visits.items() if v.host == number]
        for trial in moved:
            self._visits[trial] = replace(self._visits[trial], host=other)
        return len(moved)

    def _lose_seconds(self) -> None:
        """Note which hosts have no second process, and that its trials are with the host."""
        for host in self._turns.serving - self._without_second:
            second = self._packs.second_of(host)
            seen = {} if second is None else self._seen(second)
            if second is not None and "moved" in seen:
                self._without_second.add(host)
                count = self._move(second, host)
                if "has_died" in seen:
                    self._lost[second] = f"it died; {count} trial(s) go on with host {host}"

    def news(self) -> list[News]:
        """Tell which hosts came, left or came back, and which trials had their turn since."""
        news, self._news = self._news, []
        return news

    def release(self, trial_id: str) -> None:
        """Take the place of a trial that is over or set aside: its process may hold on to it."""
        visit = self._visits.pop(trial_id)
        if visit.host is None:
            files.write_json(self._turn_file(visit.name), {"over": True})
        else:
            self._tell(visit.host, {"dismiss": visit.name})
        self._turns.leave(trial_id)

    def _tell(self, number: int, message: dict[str, Any], patience: float = 0) -> bool:
        try:
            with connect(self._door(number), self._key, patience=patience) as connection:
                connection.send(message)
                return True
        except (ConnectionError, HostGoneError):
            log.warning("pack host %d was not there to be told %s", number, message)
            return False

    @property
    def can_score(self) -> bool:
        """Whether a host is up, or coming up."""
        return bool(self._turns.serving)

    def score(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Have a host score a saved adapter.

        Args:
            asked: See `packing.server`.

        Returns:
            Split -> `values` and `rows` of `score.SplitScores`.

        Raises:
            RuntimeError: It could not.
        """
        with connect(self._door(min(self._turns.serving)), self._key) as connection:
            connection.send({"score": asked})
            answer = connection.recv()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        scores: dict[str, Any] = answer["scores"]
        return scores

    def close(self) -> None:
        """Send the hosts home."""
        told = [number for number in self._turns.serving if self._send_home(number)]
        try:
            _join((self._threads[number] for number in told), CLOSING_SECONDS)
        finally:
            # What is left is not up yet, or died and waits for devices to be started again.
            self._given_up.set()
        _join(self._threads.values(), CLOSING_SECONDS)


def _join(threads: Iterable[threading.Thread], patience: float) -> None:
    """Wait for some threads, for so many seconds in all."""
    give_up_at = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, give_up_at - time.monotonic()))
