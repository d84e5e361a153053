"""A packed trial, as Ray Tune sees it: a light process that passes on what a pack host reports.

It imports neither torch nor much of this project; the host does the work. Where its host dies,
it waits for the host that comes in its place, and its trial goes on from its last checkpoint there.
A trial that no host can take waits for devices that hosts have left, and has its own workers there.
Read next: `doors`, `hosts`, `apart`.
"""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from raytune_glm.environment import give_way, uncollected

if ray._private.worker.global_worker.mode == ray.WORKER_MODE:
    # A process for trials, and not the command. It has half a second of importing before it, which
    # hosts, with more before them, must not wait for; after that it does next to nothing.
    give_way(5)
with uncollected():
    from ray import tune

from raytune_glm.trials.doors import RETRY_SECONDS, connect

if TYPE_CHECKING:
    from raytune_glm.trials.apart import OwnWorkers


class PackedTrial(tune.Trainable):
    """Attaches to a pack host, and gives Ray Tune one report a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Attach a trial, or have it wait for its turn.

        Args:
            config: `key`, `attach` and `visit` (see `packing.server`); `door`, unless the trial
                has to wait for one; `turn`, a file that tells a trial that waits where to go; and
                `from_step`, at which a copy of another trial began, else 0.
        """
        self._connection: Connection | None = None
        self._door: str | None = None
        self._workers: OwnWorkers | None = None
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._asked = config
        # A copy of another trial repeats that one's reports, which are not its own.
        self._last_step = config["from_step"]
        if "door" in config:
            self._attach(config["door"])
        self._must_wait = "door" not in config

    def _attach(self, door: str) -> None:
        if door != self._door:
            self._hang_up()
        self._door = door
        self._send_attach()

    def _send_attach(self) -> None:
        assert self._door is not None, "`_attach` sets it"
        while True:
            try:
                if self._connection is None:
                    self._connection = connect(Path(self._door), self._asked["key"])
                self._connection.send(
                    {"attach": self._asked["attach"], "visit": self._asked["visit"]}
                )
                return
            except OSError as error:
                if isinstance(error, ConnectionError) and self._connection is None:
                    raise
                self._connection = None

    def step(self) -> dict[str, Any]:
        """Wait for the next report and give it, `done` with the last one."""
        if self._must_wait:
            if not self._take_turn():
                return {"done": True}
            self._must_wait = False
        while True:
            report = self._next_report()
            if report.get("needs_workers"):
                self._must_wait = True
                Path(self._asked["turn"]).unlink(missing_ok=True)  # which had led to the host
            if "retry" in report:
                return report
            if "over" in report:  # it had told all else before: a copy of a trial at its end
                return {"done": True}
            beside = report.pop("beside", [])  # for the scheduler alone, and not to be kept
            if "ending" in report:
                return {**report, "report": report, "done": True}
            if report["step"] > self._last_step:  # a trial that goes on tells what it told before
                self._last_step = report["step"]
                done = report["step"] >= report["total_steps"]
                return {**report, "beside": beside, "report": report, "done": done}

    def _take_turn(self) -> bool:
        """Wait until the trial may go to a host or start its workers; False: it is called off."""
        file = Path(self._asked["turn"])
        while not file.exists():
            time.sleep(RETRY_SECONDS)
        turn = json.loads(file.read_text(encoding="utf-8"))
        if "over" in turn:
            return False
        if "door" in turn:
            self._attach(turn["door"])
            return True
        self._hang_up()
        from raytune_glm.trials.apart import OwnWorkers

        config = {**self._asked["attach"], "from_step": self._asked["from_step"]}
        self._workers = OwnWorkers(config, file)
        return True

    def _next_report(self) -> dict[str, Any]:
        if self._workers is not None:
            return self._workers.next_report()
        while True:
            assert self._connection is not None, "`_attach` connects"
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                self._connection = None
                self._send_attach()
                continue
            if message["visit"] == self._asked["visit"]:  # not of a trial that was stopped before
                report: dict[str, Any] = message["report"]
                return report

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial in the place of this one."""
        self._leave_workers()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Have the host free the slot, or end the trial's workers."""
        self._hang_up()
        self._leave_workers()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._door = None

    def _leave_workers(self) -> None:
        if self._workers is not None:
            self._workers.leave()
            self._workers = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the host saves."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the host goes on from what it saved."""
