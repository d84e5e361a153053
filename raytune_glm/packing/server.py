"""A pack host's door: trials come over a socket, and get their reports over it.

One connection carries one trial at a time, on a visit that has a name: a trial that comes again is
on another visit, unless its process died. Messages are dictionaries of plain data:

    -> {"attach": {"base", "overrides", "folder", "metric", "data_cache", "may_leave"},
        "visit": "..."}
    -> {"dismiss": "..."}     a visit, over whatever connection: its slot is free at once
    -> {"score": {"run", "adapter", "data_cache", "metrics", "splits"}}
    -> {"close": True}
    <- {"report": {...}, "visit": "..."}    <- {"scores": {...}}    <- {"error": "..."}

Connections are authenticated by a key that only the sweep knows. Read next: `visits`, `runner`.
"""

from __future__ import annotations

import itertools
import logging
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from raytune_glm.config import RunConfig, trial_run, write_trial_file
from raytune_glm.endings import ending_by
from raytune_glm.packing.messages import Attach, Close, Leave, Score
from raytune_glm.packing.runner import PackRunner
from raytune_glm.packing.visits import Report, Visits

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 256
"""Trials that may knock at the same moment."""


class PackServer:
    """Puts what comes over connections into a runner's inbox."""

    def __init__(self, runner: PackRunner, host: str, key: bytes) -> None:
        """Listen on a free port of `host`, an address of this machine."""
        self._runner = runner
        self._listener = Listener((host, 0), backlog=MOST_CONNECTIONS, authkey=key)
        self._numbers = itertools.count()
        self._visits = Visits(on_end=lambda visit: runner.inbox.put(Leave(key=visit)))
        self.address: tuple[str, int] = self._listener.address
        """Host and port."""
        threading.Thread(target=self._accept, name="pack-server", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, ConnectionError, EOFError) as error:
                log.warning("somebody was not let in: %s", error)
                continue
            except OSError:  # closed
                return
            name = f"connection-{next(self._numbers)}"
            talk = _Talk(self._runner, connection, name, self._visits)
            threading.Thread(target=talk.listen, name=talk.name, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()


class _Talk:
    """One connection, and the trial that is on it."""

    def __init__(
        self, runner: PackRunner, connection: Connection, name: str, visits: Visits
    ) -> None:
        self.name = name
        self._runner = runner
        self._connection = connection
        self._sending = threading.Lock()
        self._visits = visits
        self._visit: str | None = None

    def listen(self) -> None:
        """Take messages until the other end is gone."""
        try:
            while True:
                self._take(self._connection.recv())
        except (EOFError, OSError):
            self._leave()
        except Exception:
            log.exception("%s sent what cannot be read", self.name)
            self._leave()
            self._connection.close()

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"attach": asked, "visit": visit}:
                self._leave()
                self._visit = visit
                self._visits.join(visit, self._report, begin=lambda: self._attach(visit, asked))
            case {"dismiss": visit}:
                self._visits.dismiss(visit)
            case {"score": asked}:
                self._runner.inbox.put(Score(**_score_of(asked), answer=self._send))
            case {"close": _}:
                self._runner.inbox.put(Close())

    def _attach(self, visit: str, asked: dict[str, Any]) -> None:
        try:
            self._runner.inbox.put(_attach_of(visit, asked, self._visits))
        except Exception as error:
            log.exception("a trial cannot be attached")
            self._visits.tell(visit, {"ending": ending_by(error)})

    def _leave(self) -> None:
        if self._visit is not None:
            self._visits.leave(self._visit, self._report)

    def _report(self, report: Report) -> None:
        self._send({"report": report, "visit": self._visit})

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:  # gone; `listen` hears of it too
                log.warning("%s is gone before it was told", self.name)


def _attach_of(visit: str, asked: dict[str, Any], visits: Visits) -> Attach:
    run = trial_run(RunConfig.model_validate(asked["base"]), asked["overrides"])
    folder = Path(asked["folder"])
    write_trial_file(run, folder, metric=asked["metric"])
    return Attach(
        key=visit,
        run=run,
        folder=folder,
        metric=asked["metric"],
        data_cache=Path(asked["data_cache"]),
        may_leave=asked["may_leave"],
        report=lambda report: visits.tell(visit, report),
    )


def _score_of(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": RunConfig.model_validate(asked["run"]),
        "adapter": Path(asked["adapter"]),
        "data_cache": Path(asked["data_cache"]),
        "metrics": tuple(asked["metrics"]),
        "splits": tuple(asked["splits"]),
    }
