"""A run trained alone, from a command to its results, with a Ctrl-C or a kill on the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from raytune_glm.checkpoint import best_adapter
from tests.shipped import MODEL, ROWS
from tests.trials.command import SWEEP, Command, lines, wait_until
from tests.worker.trainer import run_in_processes

pytestmark = pytest.mark.ray


def old_command(tmp_path: Path) -> Command:
    """ChatGLM-Finetuning's freeze on 48 rows: 6 steps, a checkpoint after every second one."""
    command = Command(tmp_path, {})
    command.root = tmp_path / "results/old"
    command.words = [
        "-m",
        *("raytune_glm.train", "--train_path", str(ROWS / "train.jsonl")),
        *("--model_name_or_path", str(MODEL), "--mode", "glm3"),
        *("--train_type", "freeze", "--freeze_module_name", "layers.3.,layers.2."),
        *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
        *("--max_len", "128", "--max_src_len", "96", "--save_model_step", "2"),
        *("--show_loss_step", "1", "--ds_file", "ds_zero2_no_offload.json"),
        *("--output_dir", str(command.root)),
        # What the old command cannot say: no GPU here, few rows, and rows to measure on.
        *("model.precision=fp32", "data.max_train_rows=48", "run.ray_address=local"),
        *(f"data.test={ROWS / 'test.jsonl'}", "data.max_test_rows=4", "run.num_workers=1"),
        "train.batch_size=8",
    ]
    return command


def test_an_old_command_trains_goes_on_after_sigterm_and_leaves_its_results(tmp_path: Path) -> None:
    command = old_command(tmp_path)
    with command.started() as process:
        wait_until((command.root / "metrics.jsonl").exists, 300)
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert command.processes_after(30) == []
    assert err == "interrupted: run the same command again to go on\n"

    done = command.run()
    assert done.returncode == 0, done.stderr
    assert command.left == []
    assert "going on after step " in done.stdout
    reports = lines(command.root / "metrics.jsonl")
    assert [report["step"] for report in reports] == [2, 4, 6]
    assert [line["step"] for line in lines(command.root / "train.jsonl")] == [1, 2, 3, 4, 5, 6]

    kept = (command.root / "command.yaml").read_text(encoding="utf-8")
    assert kept in done.stdout
    assert "# --freeze_module_name" in kept
    settings = yaml.safe_load((command.root / "run.yaml").read_text(encoding="utf-8"))
    assert settings["method"]["module_patterns"] == ["layers.3.", "layers.2."]
    summary: dict[str, Any] = json.loads((command.root / "summary.json").read_text("utf-8"))
    assert summary["result"]["state"] == "COMPLETE"
    assert summary["result"]["best_step"] == 6
    score = summary["reloaded"]["test"]["eval_loss"]
    assert f"{score:.4f}" in done.stdout
    assert (command.root / "best/weights.safetensors").exists()
    assert not list(command.root.glob("checkpoint/state/*"))

    again = command.run()
    assert (again.returncode, lines(command.root / "metrics.jsonl")) == (0, reports)
    assert "going on" not in again.stdout


def test_a_run_whose_worker_is_killed_goes_on_by_itself_to_the_same_weights(
    tmp_path: Path,
) -> None:
    settings = {
        "method": {**SWEEP["method"], "dropout": 0.2},
        "train": {**SWEEP["train"], "max_steps": 40, "micro_batch_size": 4},
        "deepspeed": {"zero_stage": 2},
    }
    workers = {"run": {"num_workers": 2}}
    command = Command(tmp_path, settings | workers)
    command.words[1] = "raytune_glm.train"
    metrics = command.root / "metrics.jsonl"
    with command.started() as process:
        wait_until(metrics.exists, 300)
        worker, _ = (
            json.loads(mark.read_text())["process"]["pid"]
            for mark in (command.root / "workers").iterdir()
        )
        os.kill(worker, signal.SIGKILL)
        assert len(lines(metrics)) < 10
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert [report["step"] for report in lines(metrics)] == list(range(4, 41, 4))

    undisturbed = tmp_path / "undisturbed"
    run = {name: SWEEP[name] for name in ("model", "data")} | settings | workers
    spec = {
        "world_size": 2,
        "metric": "eval_loss",
        "data_cache": str(tmp_path / "data"),
        "trials": [{"run": run, "folder": str(undisturbed)}],
    }
    assert run_in_processes(spec, tmp_path) == [0, 0]
    adapter = best_adapter(undisturbed / "checkpoint")
    assert adapter is not None
    expected = load_file(adapter / "adapter_model.safetensors")
    found = load_file(command.root / "best/adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_an_offload_that_this_host_cannot_do_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))  # a host without libaio's headers
    nvme = {"zero_stage": 3, "offload_optimizer": "nvme", "nvme_path": str(tmp_path)}
    command = Command(tmp_path, {"deepspeed": nvme})
    command.words[1] = "raytune_glm.train"
    done = command.run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: an offload to nvme must have DeepSpeed's asynchronous")
    assert "requires the dev libaio .so object and headers" in done.stderr
    assert done.stderr.endswith("libaio with its headers (Debian: libaio-dev), or offload to cpu\n")
    assert "cluster" not in done.stdout
    assert not (command.root / "worker.log").exists()
