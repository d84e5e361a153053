"""Work that goes on in the background while this thread waits for something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(work: Callable[[], T], *, name: str) -> Future[T]:
    """Begin some work in a thread that does not keep the process from ending.

    Args:
        work: What to do; what it raises, asking for the outcome raises.
        name: The thread's.

    Returns:
        The outcome to come.
    """
    outcome: Future[T] = Future()

    def do() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # it is for who asks for the outcome
            outcome.set_exception(error)

    threading.Thread(target=do, name=name, daemon=True).start()
    return outcome
