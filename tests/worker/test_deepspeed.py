"""DeepSpeed's ways of working: precisions, clipping, checkpointing, compiled operations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.config import RunConfig
from raytune_glm.engine.compiling import compiled_folder
from raytune_glm.engine.deepspeed import DeepSpeedEngine
from raytune_glm.engine.process import choose_accelerator, load_ops, spreading_weights
from raytune_glm.models import load_model
from tests.methods.conftest import Base, bases, batch

__all__ = ["bases"]

STEPS = 12


def run_config(
    folder: Path, *, precision: str = "fp32", zero_stage: int = 0, **train: Any
) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": str(folder), "precision": precision},
            "data": {"train": "not-read"},
            "method": {"name": "lora", "rank": 4, "target_modules": "all"},
            "train": {
                "learning_rate": 5e-3,
                "batch_size": 2,
                "micro_batch_size": 2,
                "max_steps": STEPS,
                "schedule": "constant",
                "warmup_ratio": 0,
                **train,
            },
            "deepspeed": {"zero_stage": zero_stage},
        }
    )


def engine_of(base: Base, run: RunConfig) -> DeepSpeedEngine:
    device = choose_accelerator()
    torch.manual_seed(1)
    with spreading_weights(run, device) as place:
        model = run.method.apply(run.model.load(place), base.family)
    if run.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return DeepSpeedEngine(model, run, total_steps=STEPS)


def curve(base: Base, run: RunConfig) -> list[float]:
    engine = engine_of(base, run)
    num_label_tokens = int((batch()["labels"][:, 1:] != -100).sum())
    losses = [
        engine.train_step([batch()], num_label_tokens=num_label_tokens).loss for _ in range(STEPS)
    ]
    engine.close()
    return losses


def plain_curve(base: Base, run: RunConfig) -> list[float]:
    torch.manual_seed(1)
    model = run.method.apply(load_model(base.folder), base.family).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    train = run.train
    optimizer = torch.optim.AdamW(
        trained, lr=train.learning_rate, betas=train.betas, eps=train.adam_epsilon, weight_decay=0
    )
    losses = []
    for _ in range(STEPS):
        loss = model(**batch(), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        assert train.max_grad_norm is not None
        torch.nn.utils.clip_grad_norm_(trained, train.max_grad_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_gradients_are_clipped_once_and_as_plain_pytorch_clips_them(
    bases: dict[str, Base], zero_stage: int
) -> None:
    base = bases["chatglm3"]
    # An epsilon of the size of the clipped gradient makes Adam's step depend on that size.
    train = {"max_grad_norm": 0.01, "adam_epsilon": 1e-3}
    run = run_config(base.folder, zero_stage=zero_stage, **train)
    expected = plain_curve(base, run)
    assert curve(base, run) == pytest.approx(expected, abs=1e-5)
    unclipped = curve(base, run_config(base.folder, adam_epsilon=1e-3, max_grad_norm=None))
    assert abs(unclipped[-1] - expected[-1]) > 1e-3


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_gradient_checkpointing_changes_nothing(bases: dict[str, Base], zero_stage: int) -> None:
    base = bases["chatglm3"]
    plain, checkpointed = (
        curve(base, run_config(base.folder, zero_stage=zero_stage, gradient_checkpointing=on))
        for on in (False, True)
    )
    assert checkpointed == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_along_the_curve_of_fp32(
    bases: dict[str, Base], precision: str, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_accelerator()
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed lets CPUs do fp16 only where they have instructions for it; torch does not mind.
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    base = bases["chatglm3"]
    expected = curve(base, run_config(base.folder))
    losses = curve(base, run_config(base.folder, precision=precision, zero_stage=zero_stage))
    assert losses[0] == pytest.approx(expected[0], abs=0.05)
    assert losses[-1] < losses[0] - 0.5 * (expected[0] - expected[-1])


def test_steps_that_the_loss_scaler_skips_are_told_and_move_nothing(
    bases: dict[str, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_accelerator()
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    base = bases["chatglm3"]
    run = run_config(base.folder, precision="fp16")
    tree = run.model_dump(mode="json")
    # 2^32 times the loss overflows, and so does its half: the first steps are skipped.
    tree["deepspeed"]["config"] = {
        "fp16": {"initial_scale_power": 32, "hysteresis": 1},
        "zero_optimization": {"stage": 0},
    }
    engine = engine_of(base, RunConfig.model_validate(tree))
    before = engine.trained_weights()
    num_label_tokens = int((batch()["labels"][:, 1:] != -100).sum())
    first = engine.train_step([batch()], num_label_tokens=num_label_tokens)
    assert first.skipped
    assert first.grad_norm is None
    assert engine.applied_steps == 0
    torch.testing.assert_close(engine.trained_weights(), before, rtol=0, atol=0)
    skipped = 1
    while engine.train_step([batch()], num_label_tokens=num_label_tokens).skipped:
        skipped += 1
        assert skipped < 40
    assert engine.applied_steps == 1
    engine.close()


def test_weights_are_spread_over_workers_while_they_load(bases: dict[str, Base]) -> None:
    base = bases["llama"]
    run = run_config(base.folder, zero_stage=3)
    with spreading_weights(run, choose_accelerator()) as place:
        model = run.model.load(place)
    whole = load_model(base.folder)
    assert sum(p.numel() for p in model.parameters()) == 0
    sizes = {name: p.ds_numel for name, p in model.named_parameters()}
    assert sizes == {name: p.numel() for name, p in whole.named_parameters()}


def load_in_a_process(op: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = (
        "from raytune_glm.engine.process import choose_accelerator, load_ops;"
        f"choose_accelerator(); load_ops([{op!r}]); print('loaded')"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_a_lock_that_a_killed_process_left_keeps_nobody_waiting() -> None:
    choose_accelerator()
    load_ops(["cpu_adam"])
    left = compiled_folder() / "cpu_adam/lock"
    left.touch()
    done = load_in_a_process("cpu_adam")
    assert done.stdout.endswith("loaded\n"), done.stderr
    assert not left.exists()


def test_an_operation_that_this_host_cannot_compile_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    done = load_in_a_process(
        "async_io", TORCH_EXTENSIONS_DIR=str(tmp_path), CXX=str(tmp_path / "no-compiler")
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "ResourceError: an offload to nvme must have" in last
    assert "libaio with its headers" in last
