"""One sweep at a time in a folder, and a lock that no dead process holds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raytune_glm import files
from raytune_glm.errors import ConfigError
from raytune_glm.trials import lock

HOLD = """
import sys, time
from pathlib import Path
from raytune_glm.trials import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_sweep_in(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_two_sweeps_in_one_folder_are_refused_with_who_is_there(tmp_path: Path) -> None:
    with another_sweep_in(tmp_path) as process:
        assert lock.is_held(tmp_path)
        with (
            pytest.raises(ConfigError, match=rf"process {process.pid} on .*choose another run"),
            lock.held(tmp_path),
        ):
            pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with another_sweep_in(tmp_path) as process:
        process.kill()
        process.wait()
        assert not lock.is_held(tmp_path)
        with lock.held(tmp_path):
            assert lock.is_held(tmp_path)
    assert lock.read_holder(tmp_path) is None


def _sign_of_another_host(root: Path, beats: int) -> None:
    mark = {"host": "elsewhere/boot/pids", "pid": 7, "created": 1e9}
    # Whole at any moment, as a holder's own signs are.
    files.write_json(root / lock.LOCK, {"holder": mark, "beats": beats})


def test_a_sweep_on_another_host_is_seen_by_its_signs_of_life(tmp_path: Path) -> None:
    # As on a disk that keeps flock to one host: the file lives on, and nobody here holds it.
    over = threading.Event()

    def live() -> None:
        beats = 0
        while not over.is_set():
            beats += 1
            _sign_of_another_host(tmp_path, beats)
            time.sleep(0.05)

    _sign_of_another_host(tmp_path, 0)
    other = threading.Thread(target=live)
    other.start()
    try:
        with (
            pytest.raises(ConfigError, match="process 7 on elsewhere"),
            lock.held(tmp_path, beat_s=0.5),
        ):
            pass
    finally:
        over.set()
        other.join()


def test_a_sweep_that_died_on_another_host_is_taken_over(tmp_path: Path) -> None:
    _sign_of_another_host(tmp_path, 5)
    with lock.held(tmp_path, beat_s=0.1):
        holder = lock.read_holder(tmp_path)
        assert holder is not None
        assert holder.is_here
