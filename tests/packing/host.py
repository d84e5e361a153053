"""A pack host in a thread of this process, whose trials come over real sockets."""

from __future__ import annotations

import itertools
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import torch

from raytune_glm.packing.runner import PackRunner
from raytune_glm.packing.server import PackServer
from tests.shipped import MODEL, data

KEY = b"key"
BASE: dict[str, Any] = {
    "model": {"path": str(MODEL)},
    "data": data("train", "dev", "test", max_train_rows=40, max_dev_rows=6, max_test_rows=4),
    "method": {"name": "lora", "rank": 4},
    "train": {
        "max_steps": 6,
        "batch_size": 4,
        "micro_batch_size": 2,
        "eval_every_steps": 3,
        "learning_rate": 1e-3,
        "max_new_tokens": 8,
    },
}


class Host:
    """A host in a thread of this process."""

    def __init__(self, tmp_path: Path, *, pack_size: int) -> None:
        self._folder = tmp_path
        self.may_leave = True
        self._numbers = itertools.count()
        self.visits: dict[str, str] = {}
        """The last visit of a trial, by the trial's name."""
        self.runner = PackRunner(torch.device("cpu"), pack_size=pack_size)
        self._server = PackServer(self.runner, "127.0.0.1", KEY)
        self.address = self._server.address
        self._thread = threading.Thread(target=self.runner.run)
        self._thread.start()

    def knock(self) -> Connection:
        return Client(self.address, authkey=KEY)

    def attach(
        self, name: str, overrides: dict[str, Any] | None = None, metric: str = "eval_loss"
    ) -> Connection:
        """Have a trial of this name attached, over a connection of its own."""
        connection = self.knock()
        self.visits[name] = f"{name}-{next(self._numbers)}"
        asked = self.asked(name, overrides, metric)
        connection.send({"attach": asked, "visit": self.visits[name]})
        return connection

    def asked(
        self, name: str, overrides: dict[str, Any] | None = None, metric: str = "eval_loss"
    ) -> dict[str, Any]:
        """What attaches a trial of this name."""
        return {
            "base": BASE,
            "overrides": overrides or {},
            "folder": str(self.folder(name)),
            "metric": metric,
            "data_cache": str(self._folder / "data"),
            "may_leave": self.may_leave,
        }

    def dismiss(self, visit: str) -> None:
        """Have a trial leave, as the driver has it."""
        with self.knock() as connection:
            connection.send({"dismiss": visit})

    def score(self, run: dict[str, Any], adapter: Path, *splits: str) -> dict[str, Any]:
        """Have the `eval_loss` of a saved adapter taken."""
        asked = {
            "run": run,
            "adapter": str(adapter),
            "data_cache": str(self._folder / "data"),
            "metrics": ["eval_loss"],
            "splits": splits,
        }
        with self.knock() as connection:
            connection.send({"score": asked})
            scores: dict[str, Any] = connection.recv()["scores"]
            return scores

    def folder(self, name: str) -> Path:
        return self._folder / name

    def close(self) -> None:
        with self.knock() as connection:
            connection.send({"close": True})
            self._thread.join(60)
        self._server.close()
        assert not self._thread.is_alive()


def reports(connection: Connection, count: int) -> list[dict[str, Any]]:
    """Take so many reports."""
    found = []
    for _ in range(count):
        assert connection.poll(120), f"{len(found)} of {count} reports came"
        found.append(connection.recv()["report"])
    return found
