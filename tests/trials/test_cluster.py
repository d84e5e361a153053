"""How many trials run at a time: whole workers on whole nodes, and nothing that starves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from raytune_glm.errors import ResourceError
from raytune_glm.search import SearchSettings
from raytune_glm.trials.cluster import (
    PackPlacement,
    Placement,
    can_be_halved,
    connect,
    is_this_host_alone,
    max_concurrent_trials,
    pack_size,
)
from raytune_glm.trials.sight import refuse_unseen
from raytune_glm.trials.trainable import choose_network_interface

EIGHT_GPUS = {"CPU": 96.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "per_worker", "num_workers", "expected"),
    [
        ([{"CPU": 2.0}], {"CPU": 1}, 1, 2),
        ([{"CPU": 2.0}], {"CPU": 1}, 2, 1),
        # A GPU node's CPUs do not make room for more workers than it has GPUs.
        ([EIGHT_GPUS], {"CPU": 1, "GPU": 1}, 1, 8),
        # A head without GPUs holds no worker that needs one.
        ([{"CPU": 64.0}, EIGHT_GPUS, EIGHT_GPUS], {"CPU": 4, "GPU": 1}, 4, 4),
        # Three left over on each of two nodes are two trials of three, not one trial of four more.
        ([{"CPU": 7.0}, {"CPU": 7.0}], {"CPU": 2}, 3, 2),
        # A share of a GPU is of one GPU: 0.4 fits twice on each.
        ([{"CPU": 16.0, "GPU": 2.0}], {"CPU": 1, "GPU": 0.4}, 1, 4),
    ],
)
def test_as_many_trials_run_as_have_room_for_all_their_workers(
    nodes: list[dict[str, float]], per_worker: dict[str, float], num_workers: int, expected: int
) -> None:
    found = max_concurrent_trials(nodes, per_worker=per_worker, num_workers=num_workers)
    assert found == expected


@pytest.mark.parametrize(
    ("num_trials", "sampler", "scheduler", "num_hosts", "expected"),
    [
        (8, "tpe", {"name": "fifo"}, 1, 4),
        (8, "random", {"name": "fifo"}, 1, 8),
        (8, "random", {"name": "asha", "grace_period_steps": 5}, 1, 4),
        (40, "tpe", {"name": "fifo"}, 2, 8),
        (40, "random", {"name": "fifo"}, 8, 5),
        # A population that does not run at once has nobody to compare with, or to copy.
        (24, "tpe", {"name": "pbt", "interval_steps": 5}, 2, 12),
    ],
)
def test_trials_share_a_host_in_waves_where_later_ones_gain_by_it(
    num_trials: int, sampler: str, scheduler: dict[str, Any], num_hosts: int, expected: int
) -> None:
    search = SearchSettings.model_validate(
        {
            "metric": "eval_loss",
            "space": {"train.learning_rate": {"choice": [1e-4, 1e-3, 1e-2]}},
            "num_trials": num_trials,
            "sampler": {"name": sampler},
            "scheduler": scheduler,
        }
    )
    assert pack_size(search, num_hosts) == expected


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([{"CPU": 2.0}, {"CPU": 7.0}], True),
        ([{"CPU": 2.0}, {"CPU": 1.0}], False),
        ([{"CPU": 16.0, "GPU": 1.0}], False),
    ],
)
def test_hosts_of_several_cpus_and_no_gpu_have_room_for_a_second_process(
    hosts: list[dict[str, float]], expected: bool
) -> None:
    assert can_be_halved(hosts) == expected


def test_second_processes_are_numbered_behind_the_hosts_in_their_order() -> None:
    packs = PackPlacement(
        per_host=({"CPU": 2.0}, {"CPU": 2.0}), pack_size=4, is_forced=False, have_second=True
    )
    assert [packs.second_of(host) for host in packs.hosts] == [2, 3]
    assert [*packs.numbers] == [0, 1, 2, 3]
    placement = Placement(per_worker={"CPU": 1}, num_nodes=2, max_concurrent=8, packs=packs)
    assert placement.describe() == (
        "2 node(s), 2 pack host(s), each with room for 4 trial(s) at a time, in up to two processes"
    )
    alone = replace(packs, have_second=False)
    assert alone.second_of(1) is None
    assert [*alone.numbers] == [0, 1]


def test_a_trial_that_does_not_fit_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        ResourceError, match=r"num_workers=3 of 1 CPU each do not: its 1 node\(s\) have 2 CPU"
    ):
        max_concurrent_trials([{"CPU": 2.0}], per_worker={"CPU": 1}, num_workers=3)


def test_workers_talk_over_the_interface_that_holds_their_nodes_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    choose_network_interface()
    chosen = os.environ["GLOO_SOCKET_IFNAME"]
    assert os.environ["NCCL_SOCKET_IFNAME"] == chosen
    addresses = {address.address for address in psutil.net_if_addrs()[chosen]}
    assert ray.util.get_node_ip_address() in addresses


def test_an_interface_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine0")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine1")
    choose_network_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine0"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "mine1"


def test_a_host_that_does_not_see_the_results_is_told_by_name() -> None:
    refuse_unseen({})
    with pytest.raises(ResourceError) as raised:
        refuse_unseen({"10.0.0.2": ["run.storage=/tmp/results", "model.path=/models/glm"]})
    storage, model = str(raised.value).splitlines()
    assert storage.startswith("run.storage must be a folder that every host of the cluster sees")
    assert "10.0.0.2 does not see that of run.storage=/tmp/results" in storage
    assert model.startswith("model.path must be a folder")


def test_ray_is_of_this_host_alone_where_no_cluster_is_named_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert is_this_host_alone("local")
    assert is_this_host_alone("auto")
    assert not is_this_host_alone("10.0.0.1:6379")
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        host, port = cluster.getsockname()
        (tmp_path / "ray/ray_current_cluster").write_text(f"{host}:{port}")
        assert not is_this_host_alone("auto")
    assert is_this_host_alone("auto"), "that cluster is gone, as after a crash"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not is_this_host_alone("auto")
    assert is_this_host_alone("local")


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match=rf"'127.0.0.1:{port}' does not answer"):
        connect(f"127.0.0.1:{port}", log_file=tmp_path / "ray.log")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("ended", "is_asked"),
    [("/gcs_server", False), ("ray/__init__.py", True), ("", True)],
    ids=["head alone", "one that came late, and this one", "all"],
)
def test_a_local_ray_has_its_name_and_a_dashboard_and_takes_the_command_with_it(
    tmp_path: Path, ended: str, is_asked: bool
) -> None:
    script = f"""
import os, psutil, ray, signal, subprocess, sys, time, urllib.request
from pathlib import Path
from raytune_glm.command import exit_status
from raytune_glm.trials.cluster import connect

def work():
    connect("local", log_file=Path({str(tmp_path)!r}, "ray.log"))
    told = ray.get(ray.remote(lambda: os.environ.get("RAY_ADDRESS")).remote())
    print(told == ray.get_runtime_context().gcs_address, "RAY_ADDRESS" in os.environ)
    node, end = ray._private.worker._global_node, time.monotonic() + 60
    while not node.webui_url and time.monotonic() < end:
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://{{node.webui_url}}/") as page:
        print(b"Ray Dashboard" in page.read())
    started = " ".join(" ".join(process.cmdline()) for process in psutil.Process().children())
    print("gcs_server" in started, "monitor.py" in started)
    # It comes late, as the dashboard does on a busy machine.
    late = [sys.executable, "-c", "import time; time.sleep(60)", ray.__file__]
    subprocess.Popen(late, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    for process in psutil.Process().children():
        if any(word.endswith({ended!r}) for word in process.cmdline()):
            process.terminate() if {is_asked} else process.kill()
    try:
        if {is_asked}:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    except KeyboardInterrupt:
        time.sleep(30)  # as what waits for Ray does
    print("still here")

exit_status(work)
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True False\nTrue\nTrue False\n", done.stderr
    assert done.returncode == 1
    assert "run the same command again to go on" in done.stderr
