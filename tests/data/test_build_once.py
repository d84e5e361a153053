"""Folders that are made once, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from raytune_glm.data.cache import build_once, digest


def fill(folder: Path) -> None:
    time.sleep(0.2)
    (folder / "rows").write_text(f"by process {os.getpid()}", encoding="utf-8")
    with (folder.parent / "builds").open("a", encoding="utf-8") as builds:
        builds.write("built\n")


def ask(folder: Path, start: Barrier) -> None:
    start.wait()
    build_once(folder, fill)
    assert (folder / "rows").exists()


def test_of_three_processes_that_ask_at_once_one_builds(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=ask, args=(tmp_path / "key", start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "builds").read_text(encoding="utf-8") == "built\n"


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "rows").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]
    assert build_once(tmp_path / "key", fill)
    assert not build_once(tmp_path / "key", fail)


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".key.tmp-abc"
    left.mkdir()
    (left / "rows").touch()

    build_once(tmp_path / "key", fill)

    assert not left.exists()
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["rows"]


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
