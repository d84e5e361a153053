"""Every method on DeepSpeed: plain PyTorch's curve at every ZeRO stage, and whole weights saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.config import RunConfig
from raytune_glm.engine.deepspeed import DeepSpeedEngine
from raytune_glm.engine.process import choose_accelerator
from tests.methods.conftest import Base, bases, batch
from tests.methods.test_contract import EXAMPLES, applied, logits, trained

__all__ = ["bases"]

STEPS = 4
CASES = [
    ("chatglm", "p_tuning_v2_projected"),
    ("chatglm3", "prompt_tuning"),
    ("chatglm3", "full"),
    ("llama", "p_tuning_v2_projected"),
    ("llama", "freeze"),
    ("qwen2", "full"),
    ("qwen2", "lora_with_biases"),
]
"""One of each kind of weights: new tables and networks, tied embeddings, biases of the base."""


def run_config(example: str, *, zero_stage: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "not-read"},
            "data": {"train": "not-read"},
            "method": EXAMPLES[example].model_dump(),
            "train": {
                "learning_rate": 3e-3,
                "batch_size": 2,
                "micro_batch_size": 2,
                "max_steps": STEPS,
                "schedule": "constant",
                "warmup_ratio": 0,
                "max_grad_norm": None,
                "betas": [0.9, 0.999],
                "weight_decay": 0.01,
            },
            "deepspeed": {"zero_stage": zero_stage},
        }
    )


def plain_curve(base: Base, example: str) -> list[float]:
    _, model = applied(base, example)
    model.train()
    optimizer = torch.optim.AdamW(trained(model).values(), lr=3e-3)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch(), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def take_steps(engine: DeepSpeedEngine, count: int) -> list[float]:
    """Take optimizer steps on one batch; give the loss before each."""
    num_label_tokens = int((batch()["labels"][:, 1:] != -100).sum())
    return [
        engine.train_step([batch()], num_label_tokens=num_label_tokens).loss for _ in range(count)
    ]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("architecture", "example"), CASES)
def test_a_method_trains_and_is_saved_whole_under_every_zero_stage(
    bases: dict[str, Base], architecture: str, example: str, zero_stage: int, tmp_path: Path
) -> None:
    base = bases[architecture]
    choose_accelerator()
    method, model = applied(base, example)
    model.activation_checkpointing_enable()
    names = set(trained(model))
    run = run_config(example, zero_stage=zero_stage)
    engine = DeepSpeedEngine(model, run, total_steps=STEPS)
    losses = take_steps(engine, STEPS)
    assert losses == pytest.approx(plain_curve(base, example), abs=1e-5)

    weights = engine.trained_weights()
    assert set(weights) == names
    method.save(engine.model, weights, tmp_path)
    engine.model.eval()
    expected = logits(engine.model, batch())
    engine.close()
    again: Any = method.load(base.load(), tmp_path)
    torch.testing.assert_close(logits(again, batch()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize(
    ("architecture", "example"),
    [("chatglm3", "p_tuning_v2_projected"), ("llama", "prompt_tuning"), ("qwen2", "full")],
)
def test_a_resumed_method_goes_on_as_if_never_stopped(
    bases: dict[str, Base], architecture: str, example: str, zero_stage: int, tmp_path: Path
) -> None:
    choose_accelerator()
    run = run_config(example, zero_stage=zero_stage)

    def fresh() -> DeepSpeedEngine:
        return DeepSpeedEngine(applied(bases[architecture], example)[1], run, total_steps=STEPS)

    engine = fresh()
    take_steps(engine, 2)
    engine.save_state(tmp_path, "half-way")
    losses, weights = take_steps(engine, 2), engine.trained_weights()
    engine.close()
    engine = fresh()
    engine.load_state(tmp_path, "half-way")
    assert take_steps(engine, 2) == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(engine.trained_weights(), weights, rtol=0, atol=1e-6)
    engine.close()
