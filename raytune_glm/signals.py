"""Being asked to end: SIGTERM, by which job managers and hosts ask, is taken as Ctrl-C is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

asked_to_end = threading.Event()
"""Set once SIGTERM has come."""

_ASKING_TO_END = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C in the block; outside the main thread, which no signal reaches, not.

    Libraries that replace the handler, as Ray does, are to be called in `handlers_kept`.
    """
    asked_to_end.clear()
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _as_ctrl_c)
        yield


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    asked_to_end.set()
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if not callable(on_ctrl_c):  # a shell has the jobs in its background ignore Ctrl-C
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back the handlers of SIGINT and SIGTERM, which libraries replace and leave replaced."""
    before = {number: signal.getsignal(number) for number in _ASKING_TO_END}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
