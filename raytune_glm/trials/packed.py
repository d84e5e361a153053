"""A packed trial, as Ray Tune sees it: a light process that passes on what a pack host reports.

It imports neither torch nor the rest of this project; the host does the work. Where its host dies,
it waits for the host that comes in its place, and its trial goes on from its last checkpoint there.
Read next: `hosts`.
"""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from ray import tune

RETRY_SECONDS = 0.05
PATIENCE_SECONDS = 600.0
"""How long to wait for a host that has not come up, or that died and is started again."""


class HostGoneError(Exception):
    """A pack host died more often than `run.max_failures` allows, and does not come back."""


def connect(door: Path, key: bytes, *, patience: float = PATIENCE_SECONDS) -> Connection:
    """Connect to a host once it is there, or to the one that took over from it.

    Args:
        door: The file where the host writes its address.
        key: What the host lets in by.
        patience: Seconds to try.

    Raises:
        ConnectionError: It did not come.
        HostGoneError: It will not come any more.
    """
    give_up_at = time.monotonic() + patience
    while True:
        try:
            found = json.loads(door.read_text(encoding="utf-8"))
            if "error" in found:
                raise HostGoneError(f"the pack host ended: {found['error']}")
            if "moved" in found:
                door = Path(found["moved"])
                continue
            if "address" not in found:
                raise ConnectionError("it is loading its base")
            host, port = found["address"]
            return Client((host, port), authkey=key)
        except (OSError, EOFError) as error:
            if time.monotonic() > give_up_at:
                raise ConnectionError(
                    f"no pack host answered at {door} for {patience:.0f} s ({error}); see its log "
                    "beside that file"
                ) from error
            time.sleep(RETRY_SECONDS)


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
