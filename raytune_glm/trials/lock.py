"""One sweep at a time in a results folder, whichever host it is on.

The lock is the operating system's (`flock`), which lets go when its process dies, however it dies.
Some shared disks keep `flock` to one host; so the holder writes down a sign of life every few
seconds too, and where the last holder was on another host one watches for the next sign.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raytune_glm.errors import ConfigError
from raytune_glm.processes import ProcessMark

LOCK = ".lock"
BEAT_S = 4.0
"""Seconds between two signs of life."""


@contextmanager
def held(root: Path, *, beat_s: float = BEAT_S) -> Iterator[None]:
    """Keep every other sweep out of the folder for as long as the block runs.

    Args:
        root: The results folder.
        beat_s: Seconds between two signs of life.

    Raises:
        ConfigError: Another sweep holds it.
    """
    path = root / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ConfigError(
            f"run.storage must be a folder that can be written, but {path} cannot be: {error}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(root, read_holder(root)) from None
        holder = read_holder(root)
        if holder is not None and not holder.is_here and _beats(path, for_s=3 * beat_s):
            raise _taken(root, holder)
        heart = _Heart(descriptor, beat_s)
        heart.start()
        try:
            yield
        finally:
            heart.stop()
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def read_holder(root: Path) -> ProcessMark | None:
    """The process that holds a results folder, or that held it last and was killed; or none."""
    try:
        told = json.loads((root / LOCK).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return ProcessMark(**told["holder"])


def is_held(root: Path) -> bool:
    """Whether a sweep runs in the folder; one on another host is seen by its signs of life."""
    path = root / LOCK
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    holder = read_holder(root)
    return holder is not None and not holder.is_here and _beats(path, for_s=3 * BEAT_S)


def _taken(root: Path, holder: ProcessMark | None) -> ConfigError:
    who = "" if holder is None else f" (process {holder.pid} on {holder.host.partition('/')[0]})"
    return ConfigError(
        f"a results folder must have one sweep at a time, but another one is running in {root}"
        f"{who}: wait for it, or choose another run.name"
    )


class _Heart(threading.Thread):
    """Writes a sign of life every few seconds, the first one before it starts."""

    def __init__(self, descriptor: int, beat_s: float) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._beat_s = beat_s
        self._holder = ProcessMark.of_this().as_json()
        self._beats = 0
        self._over = threading.Event()
        self._beat()

    def _beat(self) -> None:
        self._beats += 1
        sign = json.dumps({"holder": self._holder, "beats": self._beats}).encode()
        os.pwrite(self._descriptor, sign.ljust(512), 0)
        os.fsync(self._descriptor)

    def run(self) -> None:
        while not self._over.wait(self._beat_s):
            self._beat()

    def stop(self) -> None:
        self._over.set()
        self.join()


def _beats(path: Path, *, for_s: float) -> bool:
    """Whether the file changes while one watches it."""
    first = path.read_bytes()
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        time.sleep(min(0.5, for_s / 10))
        if path.read_bytes() != first:
            return True
    return False
