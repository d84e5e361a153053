"""A run that is trained alone, from an old command to its results, with a Ctrl-C on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.shipped import MODEL, ROWS
from tests.trials.command import Command, lines, wait_until

pytestmark = pytest.mark.ray


def old_command(tmp_path: Path) -> Command:
    """ChatGLM-Finetuning's freeze on 48 rows: 6 steps, a checkpoint after every second one."""
    command = Command(tmp_path, {})
    command.root = tmp_path / "results/old"
    command.words = [
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


def test_an_old_command_trains_goes_on_after_ctrl_c_and_leaves_its_results(tmp_path: Path) -> None:
    command = old_command(tmp_path)
    with command.started() as process:
        wait_until((command.root / "metrics.jsonl").exists, 300)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert command.processes_after(10) == []
    assert "interrupted: run the same command again to go on" in err

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
