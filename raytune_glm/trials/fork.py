"""A second process of a pack host, which has all that the first has loaded, for no more memory.

It is forked and not started, which would take a core 8 s or so for imports and the base. That is
safe where nothing has computed with several threads in the first, nor gone back through a model (in
a child of such a process OpenMP hangs, and autograd refuses), and where the second touches nothing
of Ray's.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable

log = logging.getLogger(__name__)


class Fork:
    """The second process, seen from the first."""

    def __init__(self, body: Callable[[], None], *, on_death: Callable[[], None]) -> None:
        """Fork, and run `body` in the second process.

        Args:
            body: What the second process does until its end.
            on_death: Told, in a thread of the first, should it end before `body` does, or fail.

        Raises:
            OSError: There is no room for a process.
        """
        read, self._held = os.pipe()
        try:
            with warnings.catch_warnings():
                # Python's word on processes with threads; see above.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
        except OSError:
            os.close(read)
            os.close(self._held)
            raise
        if self.pid == 0:
            _live(body, lifeline=read)
        os.close(read)
        self._on_death = on_death
        self._is_ending = False
        self._watch = threading.Thread(target=self._await, name="second-process", daemon=True)
        self._watch.start()

    def _await(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        if status != 0 and not self._is_ending:
            log.error("the second process ended with %d", os.waitstatus_to_exitcode(status))
            self._on_death()

    def end(self, patience: float) -> None:
        """Wait for the second process to end; where it does not, end it."""
        self._watch.join(patience)
        self._is_ending = True
        if self._watch.is_alive():  # and so the number is still its own
            os.kill(self.pid, signal.SIGKILL)
        self._watch.join()
        os.close(self._held)


def _live(body: Callable[[], None], *, lifeline: int) -> None:
    """Be the second process."""
    status = 1
    try:
        gc.freeze()  # nothing of Ray's is to be taken apart here
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _let_go_of_files(but=lifeline)
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
        body()
        status = 0
    except BaseException:
        log.exception("the second process failed")
    finally:
        os._exit(status)  # what is to be done at exit is the first's


def _let_go_of_files(*, but: int) -> None:
    """Close what the first has open: the other ends of Ray's connections are to see it end.

    The numbers stay taken, since there are objects that would use or close what had them next.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in (but, nothing):
            with contextlib.suppress(OSError):  # the listing's own
                os.fstat(number)
                os.dup2(nothing, number, inheritable=False)


def _end_with(lifeline: int) -> None:
    """End this process as soon as the first has."""
    os.read(lifeline, 1)
    os._exit(0)
