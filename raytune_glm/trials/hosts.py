"""Pack hosts: one long-lived Ray Train worker a device, on which trials come and go.

    results/<name>/ray/hosts/
      0.json   the host's address      0.log   what it had to say      0.pace.json   measured

Read next: `raytune_glm.packing.server`, `packed`.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.config import RunConfig, SweepConfig, run_of
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.pacing import HostWatch, pace_file
from raytune_glm.trials.packed import RETRY_SECONDS, HostGoneError, connect
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.trainable import hide_unreserved_gpus, log_to

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

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

    def _keep(self, number: int) -> None:
        """Run one host under Ray Train, which starts it again where its process dies."""
        import ray.train

        resources = self._packs.per_host[number]
        try:
            _host_trainer()(
                host,
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
                ),
            ).fit()
        except Exception as error:
            log.exception("pack host %d ended", number)
            # Those that wait at its door, or come to it later, learn that it will not open.
            files.write_json(self._door(number), {"error": str(error).strip()})

    def watch(self, progress: Progress) -> HostWatch:
        """Give what tells of the hosts' measurements while Ray Tune runs."""
        return HostWatch(self._results, self._packs, progress, folder=self._folder)

    def attachment(self, trial_id: str, attach: dict[str, Any]) -> dict[str, Any]:
        """Choose the host of a trial, the least busy one; give the trial's configuration."""
        busy = Counter(visit.host for visit in self._visits.values())
        number = min(range(len(self._packs.per_host)), key=lambda host: busy[host])
        visit = _Visit(host=number, name=f"{trial_id}-{next(self._visit_numbers)}")
        self._visits[trial_id] = visit
        return {
            "door": str(self._door(number)),
            "key": self._key,
            "attach": attach,
            "visit": visit.name,
        }

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
        for thread in self._threads:
            thread.join(CLOSING_SECONDS)


def _host_trainer() -> type[TorchTrainer]:
    """Ray Train's trainer without two processes that hosts have no use for.

    One deals out Ray datasets. The other gives devices back where a trainer is killed, and a worker
    group waits until that process is up; hosts end with the sweep, and what they hold with them.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    class HostTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
            made = super()._create_default_callbacks()  # type: ignore[misc]  # no public way
            return [callback for callback in made if not isinstance(callback, unused)]

    return HostTrainer


def host(config: dict[str, Any]) -> None:
    """Be a pack host, in a Ray Train worker, until told to close."""
    import ray.util

    hide_unreserved_gpus(config["resources"])
    door = Path(config["door"])
    log_to(door.with_suffix(".log"))
    files.write_json(door, {"pid": os.getpid()})

    import peft  # noqa: F401  # seconds, for which the first trial would wait
    import torch

    from raytune_glm.engine.process import choose_accelerator, keep_freed_memory
    from raytune_glm.packing.runner import PackRunner
    from raytune_glm.packing.server import PackServer

    torch.set_num_threads(max(1, int(config["resources"].get("CPU", 1))))
    keep_freed_memory()
    runner = PackRunner(
        choose_accelerator(),
        pack_size=config["pack_size"],
        is_forced=config["is_forced"],
        tell=lambda pace: files.write_json(pace_file(door), pace.as_json()),
    )
    server = PackServer(runner, ray.util.get_node_ip_address(), config["key"])
    runner.load(RunConfig.model_validate(config["run"]), Path(config["data_cache"]))
    files.write_json(door, {"address": server.address, "pid": os.getpid()})
    try:
        runner.run()
    finally:
        server.close()
        door.unlink(missing_ok=True)
