"""A packed trial, as Ray Tune sees it: a light process that passes on what a pack host reports.

It imports neither torch nor much of this project; the host does the work. Where its host dies,
it waits for the host that comes in its place, and its trial goes on from its last checkpoint there.
Read next: `doors`, `hosts`.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from raytune_glm.environment import give_way, uncollected

if ray._private.worker.global_worker.mode == ray.WORKER_MODE:
    # A process for trials, and not the command. It has half a second of importing before it, which
    # hosts, with more before them, must not wait for; after that it does next to nothing.
    give_way(15)
with uncollected():
    from ray import tune

from raytune_glm.trials.doors import connect


class PackedTrial(tune.Trainable):
    """Attaches to a pack host, and gives Ray Tune one report a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Attach a trial.

        Args:
            config: `door`, `key`, `attach` and `visit` (see `packing.server`), and `from_step`, at
                which a copy of another trial began, else 0.
        """
        self._connection: Connection | None = None
        self._attach(config)

    def _attach(self, config: dict[str, Any]) -> None:
        self._asked = config
        # A copy of another trial repeats that one's reports, which are not its own.
        self._last_step = config["from_step"]
        self._send_attach()

    def _send_attach(self) -> None:
        while True:
            try:
                if self._connection is None:
                    self._connection = connect(Path(self._asked["door"]), self._asked["key"])
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
        while True:
            assert self._connection is not None, "`setup` connects"
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                self._connection = None
                self._send_attach()
                continue
            if message["visit"] != self._asked["visit"]:
                continue  # told of the trial before this one, after it was stopped
            report: dict[str, Any] = message["report"]
            if "retry" in report:
                return report
            if "over" in report:  # it had told all else before: a copy of a trial at its end
                return {"done": True}
            beside = report.pop("beside", {})  # for the scheduler alone, and not to be kept
            if "ending" in report:
                return {**report, "report": report, "done": True}
            if report["step"] > self._last_step:  # a trial that goes on tells what it told before
                self._last_step = report["step"]
                done = report["step"] >= report["total_steps"]
                return {**report, "beside": beside, "report": report, "done": done}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial in the place of this one."""
        if new_config["door"] != self._asked["door"]:
            self.cleanup()
        self._attach(new_config)
        return True

    def cleanup(self) -> None:
        """Have the host free the slot."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the host saves."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the host goes on from what it saved."""
