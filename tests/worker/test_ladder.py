"""The out-of-memory ladder: which rungs there are, and that real want of memory leads down them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm import ladder
from raytune_glm.config import RunConfig, trial_run
from raytune_glm.memory import is_out_of_memory
from raytune_glm.worker import ENDING, read_ending, train
from tests.worker.trainer import lines, run_in_processes


def _descent(run: RunConfig, *, on_gpu: bool = False) -> list[dict[str, Any]]:
    """Every rung below a run, the first one first."""
    rungs: list[dict[str, Any]] = []
    while (changes := ladder.step_down(run, on_gpu=on_gpu)) is not None:
        rungs.append(changes)
        run = trial_run(run, changes)
        assert run.gradient_accumulation_steps * run.train.micro_batch_size * (
            run.run.num_workers
        ) == (run.train.batch_size)
    return rungs


def test_one_worker_checkpoints_then_halves_its_micro_batch(run: dict[str, Any]) -> None:
    run["train"] |= {"batch_size": 12, "micro_batch_size": 6, "eval_batch_size": 8}
    assert _descent(RunConfig.model_validate(run)) == [
        {"train.gradient_checkpointing": True},
        {"train.micro_batch_size": 3, "train.eval_batch_size": 4},
        {"train.micro_batch_size": 1, "train.eval_batch_size": 1},
    ]


def test_several_workers_then_spread_gradients_and_weights(run: dict[str, Any]) -> None:
    run["run"] = {"num_workers": 2}
    run["train"] |= {"batch_size": 2, "micro_batch_size": 1, "eval_batch_size": 1}
    rungs = _descent(RunConfig.model_validate(run))
    assert rungs[1:] == [{"deepspeed.zero_stage": 2}, {"deepspeed.zero_stage": 3}]


def test_a_gpu_is_spared_by_the_host_last_of_all(run: dict[str, Any]) -> None:
    run["train"] |= {"micro_batch_size": 1, "eval_batch_size": 1, "gradient_checkpointing": True}
    assert _descent(RunConfig.model_validate(run), on_gpu=True) == [
        {"deepspeed.zero_stage": 1, "deepspeed.offload_optimizer": "cpu"},
        {"deepspeed.zero_stage": 3, "deepspeed.offload_parameters": "cpu"},
    ]


def test_packed_weights_are_not_spread(run: dict[str, Any]) -> None:
    run["run"] = {"num_workers": 2}
    run["model"]["quantization"] = "nf4"
    assert {"deepspeed.zero_stage": 3} not in _descent(RunConfig.model_validate(run))


def test_a_trial_that_is_started_again_is_on_the_rung_that_it_reached(
    run: dict[str, Any], tmp_path: Path
) -> None:
    chosen = RunConfig.model_validate(run)
    for _ in range(2):
        assert ladder.descend(ladder.applied(chosen, tmp_path), tmp_path, "no", on_gpu=False)
    again = ladder.applied(chosen, tmp_path)
    assert (again.train.gradient_checkpointing, again.train.micro_batch_size) == (True, 1)
    assert ladder.changes_of(tmp_path)["train.micro_batch_size"] == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_want_of_memory_is_told_from_other_faults(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_allocation_that_fails_under_way_ends_the_attempt_with_its_reason_in_the_folder(
    run: dict[str, Any], tmp_path: Path
) -> None:
    # The loop's clock is its own argument: what it raises is raised in the middle of a step.
    def clock() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    told: list[dict[str, Any]] = []
    train(
        RunConfig.model_validate(run),
        folder=tmp_path / "trial",
        data_cache=tmp_path / "data",
        metric="eval_loss",
        report=told.append,
        clock=clock,
    )
    ending = read_ending(tmp_path / "trial")
    assert ending is not None
    assert told == [{"ending": ending}]
    assert ending["state"] == "INFEASIBLE"
    assert "Tried to allocate 20 GiB" in ending["error"]


def test_a_real_limit_lets_big_micro_batches_fail_and_the_smaller_ones_train_the_same(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["data"] |= {"max_length": 192, "max_source_length": 128}
    run["train"] |= {"batch_size": 48, "micro_batch_size": 48, "max_steps": 2, "eval_batch_size": 4}
    run["train"]["gradient_checkpointing"] = True
    free = json.loads(json.dumps(run))
    run["run"] = {"memory_per_worker_bytes": 350e6}
    chosen = RunConfig.model_validate(run)
    folder = tmp_path / "trial"
    spec: dict[str, Any] = {
        "world_size": 1,
        "metric": "eval_loss",
        "data_cache": str(tmp_path / "data"),
        "trials": [
            {"run": run, "folder": str(folder)},
            {"run": free, "folder": str(tmp_path / "free")},
        ],
    }
    while True:
        assert run_in_processes(spec, tmp_path) == [0]
        ending = read_ending(folder)
        if ending is None:
            break
        assert "allocate memory" in ending["error"]
        assert ladder.descend(ladder.applied(chosen, folder), folder, ending["error"], on_gpu=False)
        (folder / ENDING).unlink()
        reached = ladder.applied(chosen, folder)
        spec["trials"] = [{"run": reached.model_dump(mode="json"), "folder": str(folder)}]
    assert reached.train.micro_batch_size < reached.train.batch_size == 48
    limited, unlimited = (
        lines(place / "reports.jsonl")[-1] for place in (folder, tmp_path / "free")
    )
    assert limited["eval_loss"] == pytest.approx(unlimited["eval_loss"], abs=1e-4)
