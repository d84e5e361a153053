"""A cluster of two nodes, one of which is gone in mid-sweep, with real Ray; `-m slow` runs it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from raytune_glm.processes import ProcessMark
from tests.trials.command import (
    INTERVAL,
    Command,
    packed_starts,
    reported_steps,
    small_steps,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@contextmanager
def _node(*words: str) -> Iterator[ProcessMark]:
    """Be a node of a Ray cluster, as `ray start` makes one; end all of it."""
    ray = Path(sys.executable).with_name("ray")
    with subprocess.Popen(
        [str(ray), "start", "--block", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    ) as process:
        mark = ProcessMark.of(psutil.Process(process.pid))
        try:
            assert process.stdout is not None
            assert any("Ray runtime started" in line for line in process.stdout)
            yield mark
        finally:
            mark.kill()


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[ProcessMark]]]:
    """Address of a head without room for a host, and two nodes with room for one each."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    here = "--node-ip-address=127.0.0.1"
    with ExitStack() as nodes:
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        nodes.enter_context(_node(*head, here))
        node = (f"--address={address}", "--num-cpus=1", here)
        yield address, [nodes.enter_context(_node(*node)) for _ in range(2)]


def _descendants(mark: ProcessMark) -> set[int]:
    process = mark.find()
    assert process is not None, "the node is there"
    return {child.pid for child in process.children(recursive=True)}


def test_trials_of_a_node_that_is_gone_go_on_with_another_nodes_host(
    tmp_path: Path, cluster: tuple[str, list[ProcessMark]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, nodes = cluster
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    command = Command(
        tmp_path,
        {
            "data": {"max_dev_rows": 4},
            "train": small_steps(400),
            "search": {
                "metric": "eval_loss",
                "num_trials": 4,
                "sampler": {"name": "random"},
                "space": {"train.learning_rate": {"log_range": [1e-4, 1e-2]}},
            },
            "run": {"ray_address": address, "pack_size": 2},
        },
    )
    doors = [command.root / f"ray/hosts/{number}.json" for number in range(2)]
    trials = [command.root / f"trials/{number:04d}" for number in range(4)]
    with command.started() as process:
        begun = [trial / "metrics.jsonl" for trial in trials]
        wait_until(lambda: process.poll() is not None or all(map(Path.exists, begun)), 200)
        # The host is a grandchild of the node that it is on.
        host = json.loads(doors[1].read_text())["pid"]
        [gone] = [node for node in nodes if host in _descendants(node)]
        gone.kill()
        out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "with its node; 2 trial(s) go on with host 0" in out
    rows = command.rows()
    assert {(row["state"], row["steps"]) for row in rows} == {("COMPLETE", 400)}
    moved = 0
    for trial in trials:
        starts = packed_starts(trial)
        assert len(starts) == 1 or starts[-1] > 0, "its checkpoint was not used"
        moved += len(starts) > 1
        assert reported_steps(trial) == list(range(INTERVAL, 401, INTERVAL))
    assert moved >= 2
