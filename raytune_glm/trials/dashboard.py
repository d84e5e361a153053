"""Ray's dashboard, started beside the work of a local Ray and not before it.

`ray.init` waits for the dashboard's web server, 3 of its 5 s, before it starts the processes that
any work needs. Ray has no setting for that, so the step is put off; where a version of Ray has no
such step, all is as Ray does it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

_NICENESS = 19
"""Below Ray's 15 for what trains: no trial waits for a page that nobody has open yet."""


@contextmanager
def started_beside() -> Iterator[None]:
    """Put off the dashboard of the Ray that starts in the block, to start it after the block."""
    from ray._private.node import Node

    start = getattr(Node, "start_api_server", None)
    if start is None:
        yield
        return
    put_off: list[tuple[Any, dict[str, Any]]] = []

    def later(node: Any, **settings: Any) -> None:
        put_off.append((node, settings))

    Node.start_api_server = later  # type: ignore[assignment, method-assign]  # there is no other way
    try:
        yield
    finally:
        Node.start_api_server = start  # type: ignore[method-assign]
    for node, settings in put_off:
        _Dashboard(node, settings).start()


class _Dashboard(threading.Thread):
    """Starts a dashboard and stays: its process ends with the thread that began it."""

    def __init__(self, node: Any, settings: dict[str, Any]) -> None:
        super().__init__(name="ray-dashboard", daemon=True)
        self._node = node
        self._settings = settings

    def run(self) -> None:
        if sys.platform == "linux":  # where a thread has a niceness, which what it starts inherits
            with suppress(OSError):  # a sandbox may forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self._node.start_api_server(**self._settings)
        except Exception:
            # Ray was shut down meanwhile, or the port is taken: nothing else needs the dashboard.
            log.warning("Ray's dashboard did not start", exc_info=True)
            return
        threading.Event().wait()
