"""A user's DeepSpeed configuration: taken as it is, completed, and held against the run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.config import RunConfig, trial_run
from raytune_glm.config.deepspeed_config import deepspeed_config
from raytune_glm.config.faults import validate
from raytune_glm.errors import ConfigError

RUN: dict[str, Any] = {
    "model": {"path": "not-read", "precision": "bf16"},
    "data": {"train": "not-read"},
    "method": {"name": "lora"},
    "train": {"learning_rate": 2e-4, "batch_size": 16, "micro_batch_size": 2, "max_steps": 10},
    "run": {"num_workers": 2},
}
PUBLISHED: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "reduce_bucket_size": 5e7,
        "allgather_bucket_size": "auto",
    },
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95]}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 2e-4}},
    "wall_clock_breakdown": True,
}
"""The shape of the files that fine-tuning repositories publish."""


def run_with(config: Any, **section: Any) -> RunConfig:
    tree = copy.deepcopy(RUN) | {"deepspeed": {"config": config, **section}}
    return validate(RunConfig, tree, source="the test")


def test_a_users_file_is_taken_as_it_is_and_completed_from_the_run(tmp_path: Path) -> None:
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps(PUBLISHED), encoding="utf-8")
    run = run_with(str(file))
    assert (run.deepspeed.zero_stage, run.deepspeed.offload_optimizer) == (2, "cpu")
    built = deepspeed_config(run)
    assert built == {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": False},
            "reduce_bucket_size": 5e7,
        },
        "wall_clock_breakdown": True,
        "steps_per_print": 10**9,
    }


def test_a_file_reaches_trials_on_hosts_that_do_not_have_it(tmp_path: Path) -> None:
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps(PUBLISHED), encoding="utf-8")
    run = run_with(str(file))
    file.unlink()
    again = trial_run(run, {"method.rank": 4})
    assert deepspeed_config(again) == deepspeed_config(run)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_batch_size": 32}, r"train_batch_size=32 contradicts train\.batch_size=16"),
        (
            {"train_micro_batch_size_per_gpu": 1},
            r"train_micro_batch_size_per_gpu=1 contradicts train\.micro_batch_size=2",
        ),
        (
            {"gradient_accumulation_steps": 8},
            r"gradient_accumulation_steps=8 contradicts .* = 16 / \(2 x 2\)",
        ),
        ({"gradient_clipping": 0.5}, r"gradient_clipping=0\.5 contradicts train\.max_grad_norm=1"),
        ({"fp16": {"enabled": True}}, r"fp16\.enabled=true contradicts model\.precision=bf16"),
        ({"bfloat16": {"enabled": False}}, r"bf16\.enabled=false contradicts model\.precision"),
        (
            {"optimizer": {"params": {"lr": 1e-3}}},
            r"optimizer\.params\.lr=0\.001 contradicts train\.learning_rate=0\.0002",
        ),
        ({"optimizer": {"type": "Lamb"}}, r'optimizer\.type="Lamb" contradicts AdamW'),
        (
            {"scheduler": {"type": "WarmupCosineLR"}},
            r'scheduler\.type="WarmupCosineLR" contradicts train\.schedule=linear',
        ),
        ({"scheduler": {"params": {"total_num_steps": 9}}}, r"total_num_steps=9 contradicts"),
        (
            {"elasticity": {"enabled": True}},
            r"elasticity\.enabled=true contradicts run\.num_workers",
        ),
    ],
)
def test_what_contradicts_the_run_is_refused_by_name_with_both_values(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_with(config)


def test_a_stage_that_is_written_beside_another_in_the_file_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"zero_optimization\.stage=2 contradicts deepspeed\.zero_stage=1"
    ):
        run_with(PUBLISHED, zero_stage=1)


def test_every_contradiction_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        run_with({"train_batch_size": 1, "gradient_clipping": 9, "fp16": {"enabled": True}})
    assert str(error.value).count("contradicts") == 3


@pytest.mark.parametrize("content", ["[]", "{", None])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ds.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deepspeed: must be a DeepSpeed configuration"):
        run_with(str(file))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"offload_optimizer": "cpu"},
            "zero_stage must be 1 to 3 where the optimizer",
        ),
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "zero_stage must be 3 where weights are"),
        ({"zero_stage": 3, "offload_optimizer": "nvme"}, "nvme_path must be given"),
        ({"zero_stage": 3, "nvme_path": "/ssd"}, "nvme_path must be given .* and only there"),
        (
            {"zero_stage": 1, "offload_optimizer": "nvme", "nvme_path": "/ssd"},
            "zero_stage must be 3 for an offload to nvme",
        ),
    ],
)
def test_an_offload_that_its_stage_does_not_have_is_refused(
    section: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_with(None, **section)


def test_fp16_runs_at_stage_one_at_least() -> None:
    tree = copy.deepcopy(RUN)
    tree["model"]["precision"] = "fp16"
    assert deepspeed_config(RunConfig.model_validate(tree))["zero_optimization"]["stage"] == 1
