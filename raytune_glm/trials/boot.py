"""Starting a Ray of the command's own: what its work needs first, its dashboard beside that.

`ray.init` starts, and waits for, more than a sweep needs before it can begin. Ray has no setting
for that, so these steps are put off or left out; where a version of Ray has no such step, all is
as Ray does it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from raytune_glm.environment import give_way

log = logging.getLogger(__name__)

_DASHBOARD = "start_api_server"
"""Its web server takes 3 of the 5 s of `ray.init`."""

_UNUSED = (
    # Asks for machines. It takes no notice of being asked to end: `ray.shutdown` waits a second.
    "start_monitor",
    # Sends what workers print to the command, which does not ask for it (`log_to_driver=False`).
    "start_log_monitor",
)


@contextmanager
def quick() -> Iterator[None]:
    """Have the Ray that starts in the block start quickly; its dashboard comes after the block."""
    put_off: list[tuple[Any, dict[str, Any]]] = []

    def later(node: Any, **settings: Any) -> None:
        put_off.append((node, settings))

    with ExitStack() as steps:
        steps.enter_context(_instead_of(_DASHBOARD, later))
        for step in _UNUSED:
            steps.enter_context(_instead_of(step, lambda node: None))
        yield
    for node, settings in put_off:
        _Dashboard(node, settings).start()


@contextmanager
def _instead_of(step: str, action: Any) -> Iterator[None]:
    """Take another action in the place of a step of Ray's node."""
    from ray._private.node import Node

    own = getattr(Node, step, None)
    if own is None:
        yield
        return
    setattr(Node, step, action)
    try:
        yield
    finally:
        setattr(Node, step, own)


class _Dashboard(threading.Thread):
    """Starts a dashboard and stays: its process ends with the thread that began it."""

    def __init__(self, node: Any, settings: dict[str, Any]) -> None:
        super().__init__(name="ray-dashboard", daemon=True)
        self._node = node
        self._settings = settings

    def run(self) -> None:
        give_way()  # no trial waits for a page that nobody has open yet
        try:
            self._node.start_api_server(**self._settings)
        except Exception:
            # Ray was shut down meanwhile, or the port is taken: nothing else needs the dashboard.
            log.warning("Ray's dashboard did not start", exc_info=True)
            return
        threading.Event().wait()
