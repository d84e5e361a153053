"""What a checkpoint must be, and what is left of it where the disk is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raytune_glm.checkpoint import best_adapter
from raytune_glm.methods.weights import require_saved
from tests.worker.trainer import lines, run_in_processes, run_trials


def _spec(folder: Path, run: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "world_size": 1,
        "metric": "eval_loss",
        "data_cache": str(folder.parent / "data"),
        "trials": [{"run": run, "folder": str(folder)}],
        **more,
    }


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    found = best_adapter(folder / "checkpoint")
    assert found is not None
    return load_file(found / "adapter_model.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_the_trial_goes_on_from_it(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["method"]["dropout"] = 0.2
    run["train"] |= {"max_steps": 6, "eval_every_steps": 2}
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert run_in_processes(_spec(cut, run, full_after_report=1), tmp_path) == [0]

    reports = lines(cut / "reports.jsonl")
    assert reports[0]["step"] == 2
    assert reports[-1]["ending"]["state"] == "NO_ROOM"
    error = reports[-1]["ending"]["error"]
    assert "the checkpoint of step 4 cannot be written" in error
    assert "the last one, state/step-000002, is whole" in error
    assert [path.name for path in (cut / "checkpoint/state").iterdir()] == ["step-000002"]
    assert [path.name for path in (cut / "checkpoint/adapter").iterdir()] == ["step-000002"]

    run_trials(_spec(cut, run), rank=0)
    run_trials(_spec(whole, run), rank=0)
    expected = _adapter(whole)
    for name, weight in _adapter(cut).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_an_adapter_that_changes_nothing_ends_the_trial_with_the_reason(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 2, "learning_rate": 1e-30}
    run_trials(_spec(tmp_path / "trial", run), rank=0)
    [report] = lines(tmp_path / "trial/reports.jsonl")
    assert report["ending"]["state"] == "FAILED"
    assert "after 2 steps every logit" in report["ending"]["error"]
    assert best_adapter(tmp_path / "trial/checkpoint") is None


def test_as_many_adapters_stay_as_the_limit_says_and_the_best_is_one(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 4, "eval_every_steps": 1, "save_total_limit": 1}
    run_trials(_spec(tmp_path / "trial", run), rank=0)
    reports = lines(tmp_path / "trial/reports.jsonl")
    best = min(reports, key=lambda report: report["eval_loss"])["step"]
    kept = [path.name for path in (tmp_path / "trial/checkpoint/adapter").iterdir()]
    assert kept == [f"step-{best:06d}"]


@pytest.mark.parametrize(
    "saved",
    [{}, {"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.zeros(3)}],
    ids=["nothing", "a part", "another value"],
)
def test_a_file_that_does_not_hold_what_was_trained_is_refused(
    saved: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    trained = {"a": torch.ones(2), "b": torch.full((3,), 0.5)}
    save_file(trained, tmp_path / "good.safetensors")
    require_saved(tmp_path / "good.safetensors", trained)
    save_file(saved, tmp_path / "bad.safetensors")
    with pytest.raises(RuntimeError, match="must hold all 2 trained tensors"):
        require_saved(tmp_path / "bad.safetensors", trained)


def test_state_is_kept_for_what_trains_and_for_nothing_else(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"]["max_steps"] = 2
    for stage in (0, 2, 3):
        folder = tmp_path / str(stage)
        run_trials(_spec(folder, run | {"deepspeed": {"zero_stage": stage}}), rank=0)
        [report] = lines(folder / "reports.jsonl")
        trained = report["trainable_parameters"]
        [state] = (folder / "checkpoint/state").glob("step-*")
        size = sum(path.stat().st_size for path in state.iterdir())
        # Adam's two moments, the weights, and under ZeRO the weights as the optimizer has them.
        assert 3 * 4 * trained < size < 5 * 4 * trained + 300_000, (stage, size)
        assert size < 1_200_000  # the model itself has 4.5 MB
