"""A pack host under Ray: what its death costs the trials on it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from raytune_glm.files import read_json
from tests.trials.command import (
    INTERVAL,
    Command,
    lines,
    packed_starts,
    reported_steps,
    small_steps,
    wait_until,
)

pytestmark = pytest.mark.ray

needs_two_cpus = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2, reason="a host of one CPU has none to leave to a second process"
)


def test_a_killed_host_costs_its_trials_one_reporting_interval_at_most(tmp_path: Path) -> None:
    """Three methods: two that share passes, and one that is alone in its own."""
    command = Command(
        tmp_path,
        {
            "data": {"max_dev_rows": 4},
            "train": {**small_steps(80), "learning_rate": 1e-3},
            "search": {
                "metric": "eval_loss",
                "num_trials": 3,
                "sampler": {"name": "grid"},
                "space": {
                    "method": {
                        "one_of": {
                            "lora": {"rank": {"choice": [4]}},
                            "freeze": {"num_trainable_layers": {"choice": [1]}},
                            "full": {},
                        }
                    }
                },
            },
            "run": {"pack_size": 3},
        },
    )
    door = command.root / "ray/hosts/0.json"
    trials = [command.root / f"trials/{number:04d}" for number in range(3)]

    with command.started() as process:
        wait_until(lambda: all((t / "metrics.jsonl").exists() for t in trials), 300)
        host = json.loads(door.read_text())["pid"]
        os.kill(host, signal.SIGKILL)
        reached = [lines(trial / "train.jsonl")[-1]["step"] for trial in trials]
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rows = command.rows()
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert {row["steps"] for row in rows} == {80}
    assert sorted(row["execution"] for row in rows) == ["packed", "packed", "solo"]
    for trial, step in zip(trials, reached, strict=True):
        starts = packed_starts(trial)
        assert starts[1] > 0, "the host died before the trial had saved"
        assert step - starts[1] <= INTERVAL
        assert reported_steps(trial) == list(range(INTERVAL, 81, INTERVAL))


HOSTS = """
import json, os, signal, sys, threading, time
from pathlib import Path
from raytune_glm import files
from raytune_glm.config import load_sweep, run_of
from raytune_glm.trials import cluster
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.packed import PackedTrial
from raytune_glm.trials.records import ResultsFolder

sweep = load_sweep(Path(sys.argv[1]), [])
results = ResultsFolder(sweep.run.folder)
cluster.connect("local", log_file=results.root / "ray.log")
placement = cluster.place(
    sweep, precisions=["fp32"], execution="packed", total_parameters=2_000_000
)
hosts = Hosts(sweep, results, placement)

def attached(name, overrides={}):
    attach = {
        "base": run_of(sweep).model_dump(mode="json"),
        "overrides": overrides,
        "folder": str(results.trial(name)),
        "metric": "eval_loss",
        "data_cache": str(results.data),
        "results": str(results.root),
        "resources": placement.per_worker,
        "ray_folder": str(results.root / "ray"),
    }
    return {**hosts.attachment(name, attach), "from_step": 0}

def reports_of(asked):
    trial = PackedTrial(asked)
    report = {}
    while not report.get("done"):
        report = trial.step()
        yield report
    trial.stop()

try:
    hosts.start()
    told = act()
finally:
    hosts.close()
    looked_after = [thread.name for thread in threading.enumerate() if "pack-host" in thread.name]
    cluster.leave()
assert not looked_after
print(json.dumps([*told, hosts.news()]))
"""
"""What has hosts without Ray Tune do what `act` says."""


def run_hosts(command: Command, act: str) -> list[Any]:
    """Give what `act` returned, and the hosts' news."""
    command.words = ["-c", act + HOSTS, str(command.file)]
    done = command.run()
    assert done.returncode == 0, done.stderr
    told: list[Any] = json.loads(done.stdout.splitlines()[-1])
    assert command.left == []
    return told


def sweep_of(num_trials: int) -> dict[str, Any]:
    return {"metric": "eval_loss", "num_trials": num_trials, "sampler": {"name": "random"}}


def test_a_trial_whose_rung_no_host_takes_goes_on_with_workers_of_its_own(tmp_path: Path) -> None:
    """On CPUs no rung is such a one: here the ladder's file holds a setting that hosts refuse."""
    sent_off, steps, is_given_a_host, news = run_hosts(
        Command(tmp_path, {"search": sweep_of(2)}),
        """
def act():
    asked = attached("0000")
    rung = {"changes": {"train.packing": True}, "error": "out of memory"}
    files.append_line(results.trial("0000") / "ladder.jsonl", rung)
    trial = PackedTrial(asked)
    sent_off = trial.step()
    hosts.leave_host("0000")
    trial.stop()
    del asked["door"]  # as where its process has died
    steps = [report["step"] for report in reports_of(asked)]
    hosts.release("0000")
    steps += [report["step"] for report in reports_of(attached("0001"))]
    hosts.release("0001")
    return sent_off, steps, "door" in attached("0000")
""",
    )
    assert sent_off == {"retry": {"train.packing": True}, "needs_workers": True}
    assert steps == [4, 8, 4, 8], "of the one with workers of its own, and of the next on the host"
    assert not is_given_a_host, "the ladder's file is heeded where a trial begins again"
    assert [what for _, _, what, _ in news][:2] == ["left", "back"]


@needs_two_cpus
def test_a_second_process_takes_trials_as_a_host_does_and_the_first_goes_on_with_them(
    tmp_path: Path,
) -> None:
    """The same trial on the first process, on the second, and on both in turn."""
    told, lost, serving, threads, news = run_hosts(
        Command(tmp_path, {"search": sweep_of(8), "run": {"max_failures": 0}}),
        """
def told_door(number):
    return str(results.root / f"ray/hosts/{number}.json")

def act():
    told = []
    same = {"train.learning_rate": 1e-3, "train.eval_every_steps": 2}
    asked = [attached(name, same) for name in ("first", "second")]
    for on in asked:
        told.append([Path(on["door"]).name, *(r["eval_loss"] for r in reports_of(on))])
    hosts.release("first")
    asked = attached("third", same)
    losses = []
    for report in reports_of({**asked, "door": told_door(1)}):
        losses.append(report["eval_loss"])
        if len(losses) == 2:
            os.kill(json.loads(Path(told_door(1)).read_text())["pid"], signal.SIGKILL)
    told.append(["both", *losses])
    lost = hosts.look_after()
    log = (results.root / "ray/hosts/0.log").read_text()
    threads = [line.split()[-5] for line in log.splitlines() if "computes with" in line]
    return told, lost, sorted(hosts.serving), threads[-1]
""",
    )
    assert [door for door, *_ in told] == ["0.json", "1.json", "both"]
    for _, *losses in told[1:]:
        assert losses == pytest.approx(told[0][1:], abs=1e-5)
    assert len(told[0]) == 5
    assert lost == {"1": "it died; 1 trial(s) go on with host 0"}
    assert serving == [0]
    assert threads == str(os.cpu_count()), "those of the second are the host's again"
    assert news == []


@needs_two_cpus
def test_a_killed_host_takes_its_second_process_along_and_both_come_back(tmp_path: Path) -> None:
    space = {"method.rank": {"choice": [4, 8]}}
    search = {"metric": "eval_loss", "num_trials": 2, "sampler": {"name": "grid"}, "space": space}
    command = Command(
        tmp_path,
        {"data": {"max_dev_rows": 4}, "train": small_steps(80), "search": search},
    )
    trials = [command.root / f"trials/{number:04d}" for number in range(2)]
    doors = [command.root / f"ray/hosts/{number}.json" for number in (0, 1)]

    def pids() -> list[int]:
        return [found["pid"] for found in map(read_json, doors) if found is not None]

    with command.started() as process:
        wait_until(lambda: all((t / "metrics.jsonl").exists() for t in trials), 300)
        first, second = pids()
        assert psutil.Process(second).ppid() == first
        os.kill(first, signal.SIGKILL)
        reached = [lines(trial / "train.jsonl")[-1]["step"] for trial in trials]
        wait_until(lambda: not psutil.pid_exists(second), 10)
        wait_until(lambda: len(pids()) == 2 and {first, second}.isdisjoint(pids()), 100)
        first, second = pids()
        assert psutil.Process(second).ppid() == first
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert {row["state"] for row in command.rows()} == {"COMPLETE"}
    for trial, step in zip(trials, reached, strict=True):
        starts = packed_starts(trial)
        assert starts[1] > 0, "the host died before the trial had saved"
        assert step - starts[1] <= INTERVAL
        assert reported_steps(trial) == list(range(INTERVAL, 81, INTERVAL))


def test_a_host_that_waits_for_devices_is_given_up_with_its_sweep(tmp_path: Path) -> None:
    """Those of another sweep have the devices."""
    told, threads, news = run_hosts(
        Command(tmp_path, {"search": sweep_of(2)}),
        """
def act():
    from ray.util import placement_group_table
    while "address" not in (files.read_json(results.root / "ray/hosts/0.json") or {}):
        time.sleep(0.1)
    others = Hosts(sweep, ResultsFolder(results.root / "beside"), placement)
    others.start()
    while all(devices["state"] == "CREATED" for devices in placement_group_table().values()):
        time.sleep(0.1)
    others.close()
    threads = sum("pack-host" in thread.name for thread in threading.enumerate())
    return (files.read_json(results.root / "beside/ray/hosts/0.json") or {}), threads
""",
    )
    assert threads == 1, "the one that looks after the host that is up"
    assert told == {}, "nobody is told of an error that is none"
    assert news == []


def test_sigterm_while_a_host_comes_up_ends_the_command_and_all_that_it_started(
    tmp_path: Path,
) -> None:
    command = Command(tmp_path, {"search": sweep_of(2)})
    with command.started() as process:
        wait_until((command.root / "ray/hosts/0.json").exists, 300)
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert command.processes_after(30) == []
    assert "interrupted: run the same command again to go on" in out + err
    assert "winner" not in out
