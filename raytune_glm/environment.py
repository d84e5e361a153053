"""What a process has: environment variables, libraries or not, garbage collection, processors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the block, for processes that it starts too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def without(module: str) -> Iterator[None]:
    """Have whoever looks for a module that is not imported yet not find it, in the block.

    A library that remembers that it did not find it goes on without it afterwards.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's word for "there is none"
    try:
        yield
    finally:
        del sys.modules[module]


@contextmanager
def uncollected() -> Iterator[None]:
    """Have Python look for no garbage in the block, where modules are imported.

    Every module adds objects, and so makes Python look through all that are there again and again:
    a quarter of the time of importing torch, transformers and PEFT.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def give_way(by: int = 19) -> None:
    """Have the thread that calls, and all that it starts, run where others leave room.

    Args:
        by: How far it steps back from where it is; 19 is as far as there is.
    """
    if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
        with suppress(OSError):  # a sandbox may forbid it, as all forbid to come forward again
            now = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, min(now + by, 19))
