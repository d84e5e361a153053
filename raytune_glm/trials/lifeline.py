"""The end of a command whose own Ray has ended under it.

Whoever asks all processes of a command to end, as a job manager or `systemctl stop` does, ends the
Ray that it started, too, or parts of it: Ray's client would wait for them for a minute and then
abort the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from raytune_glm.signals import asked_to_end

LOOK_EVERY_SECONDS = 1.0
TOGETHER_SECONDS = 10.0
"""Processes that ended so long before SIGTERM came here were ended by whoever sent it."""


def hold_on_to_ray() -> None:
    """End this process within seconds, with one line, once the Ray that it has started has ended.

    So it has where its head or its node is gone, or any of its processes after SIGTERM came here.
    """
    threading.Thread(target=_watch, args=(_address(),), name="lifeline", daemon=True).start()


def _watch(address: str) -> None:
    # Ended together, head and node may wait for each other for ever (ray 2.60): then another
    # process has to tell, such as the dashboard, which comes later.
    vital = [child for child in _children() if child.name() in ("gcs_server", "raylet")]
    seen_at: dict[psutil.Process, float] = {}
    while all(map(_lives, vital)):
        now = time.monotonic()
        seen_at |= dict.fromkeys(filter(_lives, _children()), now)
        lately = [child for child, at in seen_at.items() if now - at < TOGETHER_SECONDS]
        if asked_to_end.is_set() and not all(map(_lives, lately)):
            break
        time.sleep(LOOK_EVERY_SECONDS)
    # A shutdown disconnects first, and then ends the processes.
    if _address() == address:
        print(
            "interrupted: Ray's processes of this command were ended: run the same command again "
            "to go on",
            file=sys.__stderr__,
            flush=True,
        )
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        os._exit(1)  # everything else would wait for Ray


def _children() -> list[psutil.Process]:
    """This process's own processes of Ray's."""
    import ray

    package = str(Path(ray.__file__).parent)
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(package) for word in child.cmdline()):
                found.append(child)
    return found


def _address() -> str:
    """Of the Ray that this process is connected to; nothing where it is to none."""
    import ray

    return str(ray.get_runtime_context().gcs_address) if ray.is_initialized() else ""


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
