"""Whole sweeps through the command line, with real Ray, real workers and real kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from raytune_glm.config import load_run
from raytune_glm.data import DataConfig, encode_splits
from raytune_glm.models import inspect_folder, load_tokenizer, register
from tests.trials.command import SWEEP, Command, lines, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Command, Any]:
    """A sweep of a good trial, a bad one that ASHA stops, and one that diverges."""
    search = {
        "num_trials": 3,
        "max_concurrent": 1,
        "sampler": {"name": "random", "seed": 6},
        "scheduler": {"name": "asha", "grace_period_steps": 4, "reduction_factor": 2},
        "space": {
            "train.learning_rate": {"choice": [5e-3, 1e-8]},
            "method.alpha": {"choice": [32.0, 1e38]},
        },
    }
    command = Command(
        tmp_path_factory.mktemp("sweep"), {"search": {"metric": "eval_loss", **search}}
    )
    return command, command.run()


def test_a_sweep_ends_with_a_leaderboard_and_leaves_no_process(
    finished: tuple[Command, Any],
) -> None:
    command, done = finished
    assert done.returncode == 0, done.stderr
    assert command.left == []
    lines = (command.root / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["COMPLETE", "PRUNED", "FAILED"]
    assert "winner      trial 0" in done.stdout


def test_stopped_trials_are_pruned_and_diverged_ones_failed_in_rows_and_study(
    finished: tuple[Command, Any],
) -> None:
    command, _ = finished
    rows = command.rows()
    assert [row["state"] for row in rows] == ["COMPLETE", "PRUNED", "FAILED"]
    assert [row["steps"] for row in rows] == [8, 4, 0]
    assert rows[0]["params"] == {"train.learning_rate": 5e-3, "method.alpha": 32.0}
    assert rows[0]["metrics"]["best"]["eval_loss"] < rows[1]["metrics"]["best"]["eval_loss"]
    assert "at step 1" in rows[2]["error"]
    for name in ("seconds", "start_seconds", "tokens_per_second", "peak_memory_bytes"):
        assert rows[0][name] > 0

    trials = command.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert sorted(trials[0].intermediate_values) == [4, 8]
    assert sorted(trials[1].intermediate_values) == [4]
    assert trials[0].value == rows[0]["metrics"]["best"]["eval_loss"]


def test_every_file_of_the_results_folder_is_there_and_says_what_was_measured(
    finished: tuple[Command, Any],
) -> None:
    command, _ = finished
    root = command.root
    settings = yaml.safe_load((root / "sweep.yaml").read_text(encoding="utf-8"))
    assert settings["search"]["num_trials"] == 3
    versions = json.loads((root / "versions.json").read_text(encoding="utf-8"))
    assert versions["packages"]["torch"] == torch.__version__
    assert set(versions["data_sha256"]) == {SWEEP["data"]["train"], SWEEP["data"]["dev"]}
    [scores] = [json.loads(path.read_text()) for path in root.glob("trials/*/scores.json")]
    reported = command.rows()[0]["metrics"]["best"]["eval_loss"]
    assert scores["dev"]["eval_loss"] == pytest.approx(reported, abs=1e-4)
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    assert summary["states"] == {"COMPLETE": 1, "PRUNED": 1, "FAILED": 1, "INFEASIBLE": 0}
    assert summary["best"]["number"] == 0
    trial = root / "trials/0000"
    reports = lines(trial / "metrics.jsonl")
    assert [report["step"] for report in reports] == [4, 8]
    settings = load_run(trial / "config.yaml")
    assert (settings.train.learning_rate, settings.run.name) == (5e-3, "sweep-0000")
    assert load_run(root / "best.yaml").train == settings.train
    assert not list(root.glob("trials/*/checkpoint/state/*"))
    assert "Traceback" not in (trial / "worker.log").read_text(encoding="utf-8")


def test_the_winner_gives_the_leaderboards_loss_in_plain_transformers_and_peft(
    finished: tuple[Command, Any],
) -> None:
    import peft
    import transformers

    command, _ = finished
    register()
    base = transformers.AutoModelForCausalLM.from_pretrained(SWEEP["model"]["path"]).float()
    model = peft.PeftModel.from_pretrained(base, str(command.root / "best")).eval()
    tokenizer = load_tokenizer(SWEEP["model"]["path"])
    rows = encode_splits(
        DataConfig(**SWEEP["data"]),
        family=inspect_folder(SWEEP["model"]["path"]).family,
        tokenizer=tokenizer,
        cache_dir=command.root / "data",
    ).dev
    assert rows is not None
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert total / count == pytest.approx(
        command.rows()[0]["metrics"]["best"]["eval_loss"], abs=1e-3
    )


def test_best_yaml_runs_again_and_ends_with_the_same_adapter(
    finished: tuple[Command, Any], tmp_path: Path
) -> None:
    command, _ = finished
    again = Command(tmp_path, {})
    again.file.write_text((command.root / "best.yaml").read_text(encoding="utf-8"))
    done = again.run()
    assert done.returncode == 0, done.stderr
    first = load_file(command.root / "best/adapter_model.safetensors")
    second = load_file(command.root.parent / "sweep-best/best/adapter_model.safetensors")
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-6, rtol=0)


def test_the_same_command_again_prints_the_leaderboard_and_trains_nothing(
    finished: tuple[Command, Any],
) -> None:
    command, _ = finished
    before = command.rows()
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert "winner      trial 0" in done.stdout
    assert "nothing is left to do: this sweep is finished" in done.stdout
    assert "started" not in done.stdout
    assert command.rows() == before


def test_other_settings_in_the_same_folder_are_refused(finished: tuple[Command, Any]) -> None:
    command, _ = finished
    tree = yaml.safe_load(command.file.read_text(encoding="utf-8"))
    tree["train"]["batch_size"] = 16
    other = command.file.with_name("other.yaml")
    other.write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "raytune_glm.sweep", str(other)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "train.batch_size: 8 then, 16 now" in done.stderr


def test_a_killed_driver_loses_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = Command(
        tmp_path,
        {
            "train": {"max_steps": 12},
            "search": {
                "metric": "eval_loss",
                "num_trials": 3,
                "max_concurrent": 1,
                "space": {"train.learning_rate": {"log_range": [1e-3, 1e-2]}},
            },
        },
    )
    second = command.root / "trials/0001/metrics.jsonl"
    with command.started() as process:
        wait_until(second.exists, 300)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = command.rows()
    assert [row["number"] for row in before] == [0]

    done = command.run()
    assert done.returncode == 0, done.stderr
    rows = command.rows()
    assert rows[:1] == before
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert len({row["params"]["train.learning_rate"] for row in rows}) == 3
    reports = lines(second)
    assert [report["step"] for report in reports] == [4, 8, 12]
    assert [trial.state.name for trial in command.study().trials] == ["COMPLETE"] * 3


def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(tmp_path: Path) -> None:
    command = Command(
        tmp_path, {"search": {"metric": "eval_loss", "num_trials": 3, "max_concurrent": 1}}
    )
    with command.started() as process:
        wait_until(lambda: len(command.rows()) == 1, 300)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert command.processes_after(30) == []
    assert "interrupted: run the same command again to go on" in out
    assert (command.root / "best/adapter_model.safetensors").exists()
    assert len(command.rows()) == 1


def test_more_workers_than_the_machine_has_are_refused_before_any_trial(tmp_path: Path) -> None:
    command = Command(tmp_path, {"run": {"num_workers": 512}, "train": {"batch_size": 4096}})
    done = command.run()
    assert done.returncode == 2
    assert "num_workers=512 of 1 CPU each do not" in done.stderr
    assert command.left == []
    assert not (command.root / "trials").exists()
