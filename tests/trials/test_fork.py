"""A second process that is forked from a host's, before that has trained."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from raytune_glm.trials.fork import Fork

folder = Path(sys.argv[1])
torch.set_num_threads(1)
weight = torch.randn(256, 256)

def gradient(threads):
    torch.set_num_threads(threads)
    x = torch.ones(2048, 256, requires_grad=True)
    (x @ weight).relu().sum().backward()
    return x.grad.sum().item()

def note(name, text):
    (folder / (name + ".new")).write_text(text)
    (folder / (name + ".new")).rename(folder / name)
"""


@contextlib.contextmanager
def started(folder: Path, script: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT + script, str(folder)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_both_train_with_several_threads(tmp_path: Path) -> None:
    with started(
        tmp_path,
        """
second = Fork(lambda: note("second", str(gradient(2))), on_death=lambda: note("died", ""))
note("first", str(gradient(2)))
second.end(60)
""",
    ) as process:
        assert process.wait(120) == 0
    first, second = (float((tmp_path / name).read_text()) for name in ("first", "second"))
    assert first == pytest.approx(second)
    assert not (tmp_path / "died").exists(), "it ended as it should"


def test_the_second_ends_with_the_first_whatever_ended_that(tmp_path: Path) -> None:
    with started(
        tmp_path,
        """
second = Fork(lambda: time.sleep(100), on_death=lambda: None)
note("second", str(second.pid))
time.sleep(100)
""",
    ) as process:
        second = psutil.Process(int(awaited(tmp_path / "second")))
        process.kill()
        process.wait()
        psutil.wait_procs([second], timeout=10)
        assert not second.is_running()


@pytest.mark.parametrize("body", ["time.sleep(100)", "1 / 0"])
def test_the_first_is_told_where_the_second_ends_too_early(tmp_path: Path, body: str) -> None:
    with started(
        tmp_path,
        f"""
second = Fork(lambda: {body}, on_death=lambda: note("died", "so it did"))
note("second", str(second.pid))
while not (folder / "died").exists():
    time.sleep(0.05)
second.end(100)
""",
    ) as process:
        second = int(awaited(tmp_path / "second"))
        if psutil.pid_exists(second) and "sleep" in body:
            psutil.Process(second).kill()
        assert process.wait(20) == 0
    assert (tmp_path / "died").read_text() == "so it did"


def test_one_that_does_not_end_by_itself_is_ended(tmp_path: Path) -> None:
    with started(
        tmp_path,
        """
second = Fork(lambda: time.sleep(100), on_death=lambda: note("died", ""))
second.end(0.1)
""",
    ) as process:
        assert process.wait(20) == 0
    assert not (tmp_path / "died").exists(), "that it was ended is no death"


def awaited(file: Path) -> str:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} never came"
        time.sleep(0.05)
    return file.read_text()
