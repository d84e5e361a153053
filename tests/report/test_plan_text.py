"""What a plan says of the sweeps that a new one learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raytune_glm import files
from raytune_glm.config import load_sweep
from raytune_glm.config.check import check_sweep
from raytune_glm.report.plan import describe_plan
from tests.shipped import data


@pytest.fixture
def file(tmp_path: Path, tiny_glm: Path) -> Path:
    sweep: dict[str, Any] = {
        "model": {"path": str(tiny_glm)},
        "data": data("train", "dev"),
        "method": {"name": "lora"},
        "train": {"max_steps": 4},
        "run": {"storage": str(tmp_path)},
        "search": {
            "num_trials": 2,
            "sampler": "random",
            "space": {"train.learning_rate": {"log_range": [1e-4, 1e-2]}},
            "warm_start": [str(tmp_path / "old")],
        },
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def _earlier(file: Path, *overrides: str) -> None:
    """Two trials of an earlier sweep of the same file with these changes."""
    tree = load_sweep(file, overrides).model_dump(mode="json", exclude={"search"})
    folder = file.parent / "old"
    for number in range(2):
        trial = {"number": number, "id": f"{number:04d}", "state": "COMPLETE", "params": {}}
        costs = dict.fromkeys(("tokens_per_second", "peak_memory_bytes", "trainable_parameters"))
        metrics = {"final": {}, "best": {"eval_loss": 0.5}}
        times = {"best_step": 4, "steps": 4, "seconds": 1.0, "start_seconds": 1.0}
        files.append_line(folder / "trials.jsonl", {**trial, **costs, **times, "metrics": metrics})
        files.write_text(folder / f"trials/{number:04d}/config.yaml", yaml.safe_dump(tree))
        files.append_line(
            folder / f"trials/{number:04d}/metrics.jsonl", {"step": 4, "eval_loss": 0.5}
        )


def _told(file: Path) -> list[str]:
    sweep = load_sweep(file)
    lines = describe_plan(sweep, check_sweep(sweep)).splitlines()
    return [line for line in lines if line.startswith(("history", "note"))]


def test_the_numbers_of_earlier_trials_are_told(file: Path) -> None:
    _earlier(file)
    [history] = _told(file)
    assert history.endswith(
        "fit, and are learnt from as numbers 0 to 1; this sweep's own begin at 2"
    )
    (file.parent / "sweep/trials").mkdir(parents=True)  # the study has begun without them
    assert _told(file)[0].endswith("fit, and are learnt from")


def test_settings_that_earlier_trials_had_otherwise_are_named_a_few_of_them(file: Path) -> None:
    _earlier(file, "train.batch_size=8", "train.eval_batch_size=4")
    assert _told(file)[1] == (
        "note       earlier trials had other values of train.batch_size, which this sweep does not "
        "search: their scores may not compare"
    )
    (file.parent / "old/trials.jsonl").unlink()
    others = ("seed=1", "max_grad_norm=null", "weight_decay=0.1", "warmup_ratio=0", "batch_size=8")
    _earlier(file, *(f"train.{other}" for other in others))
    assert (
        "train.batch_size, train.max_grad_norm, train.seed, train.warmup_ratio and 1 more,"
        in (_told(file)[1])
    )
