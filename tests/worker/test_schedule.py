"""Learning rates over the steps, against transformers' schedules and DeepSpeed's own."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from raytune_glm.config import RunConfig
from raytune_glm.config.rates import names_by_rate
from raytune_glm.engine.deepspeed import DeepSpeedEngine
from raytune_glm.engine.process import choose_accelerator
from raytune_glm.engine.schedule import SCHEDULES, Schedule, learning_rate_factor, num_warmup_steps
from raytune_glm.errors import ConfigError, ZeroLossError

PEAK = 2e-4
THEIRS: dict[Schedule, Any] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, _: get_constant_schedule_with_warmup(optimizer, warmup),
}


def ours(schedule: Schedule, total_steps: int, warmup_ratio: float) -> list[float]:
    return [
        PEAK
        * learning_rate_factor(
            step, schedule=schedule, total_steps=total_steps, warmup_ratio=warmup_ratio
        )
        for step in range(total_steps)
    ]


def taken(scheduler: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The rates that an optimizer has at its steps under another's scheduler."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


@pytest.mark.parametrize("total_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("schedule", THEIRS)
def test_without_warm_up_the_rates_are_transformers(schedule: Schedule, total_steps: int) -> None:
    wrapped = optimizer()
    theirs = taken(THEIRS[schedule](wrapped, 0, total_steps), wrapped, total_steps)
    assert ours(schedule, total_steps, 0.0) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("total_steps", "ratio"), [(100, 0.1), (45, 0.25), (7, 0.9), (2, 0.1)])
@pytest.mark.parametrize("schedule", THEIRS)
def test_with_warm_up_they_are_too_but_no_step_is_wasted_on_0(
    schedule: Schedule, total_steps: int, ratio: float
) -> None:
    wrapped, warmup = optimizer(), num_warmup_steps(total_steps, ratio)
    theirs = taken(THEIRS[schedule](wrapped, warmup, total_steps), wrapped, total_steps)
    assert theirs[0] == 0
    # The rise begins a step earlier; from its top on nothing is different.
    expected = [*theirs[1 : warmup + 1], *theirs[warmup:]]
    assert ours(schedule, total_steps, ratio) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("total_steps", "ratio"), [(100, 0.1), (720, 0.1), (45, 0.03), (9, 0.5), (3, 0.9)]
)
def test_warmup_decay_is_what_deepspeed_makes_of_the_published_configuration(
    total_steps: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.runtime.lr_schedules import WarmupDecayLR

    monkeypatch.setattr(logging.getLogger("DeepSpeed"), "disabled", True)
    wrapped = optimizer()
    scheduler = WarmupDecayLR(
        wrapped,
        total_num_steps=total_steps,
        warmup_min_lr=0.1 * PEAK,
        warmup_max_lr=PEAK,
        warmup_num_steps=max(1, int(ratio * total_steps)),
        warmup_type="cosine",
        last_batch_iteration=-1,
    )
    theirs = taken(scheduler, wrapped, total_steps)
    assert ours("warmup_decay", total_steps, ratio) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_moves_and_none_above_the_peak(schedule: Schedule) -> None:
    for total_steps in (1, 2, 3, 50):
        for ratio in (0.0, 0.1, 0.99):
            rates = ours(schedule, total_steps, ratio)
            assert all(0 < rate <= PEAK for rate in rates), (total_steps, ratio)


NAMES = ["layers.1.lora_A.default.weight", "layers.1.lora_B.default.weight", "lm_head.weight"]


def run(**train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "not-read"},
            "data": {"train": "not-read"},
            "method": {"name": "lora"},
            "train": {
                "learning_rate": 1e-3,
                "batch_size": 2,
                "micro_batch_size": 2,
                "max_steps": 4,
                "warmup_ratio": 0,
                **train,
            },
        }
    )


def test_a_name_takes_the_rate_of_the_first_pattern_that_it_has() -> None:
    settings = run(learning_rates={"lora_B": "16x", "layers.1": 5e-4}).train
    assert names_by_rate(NAMES, settings) == {
        5e-4: [NAMES[0]],
        1.6e-2: [NAMES[1]],
        1e-3: [NAMES[2]],
    }


@pytest.mark.parametrize(
    ("rates", "pattern"),
    [
        ({"lora_C": 1e-4}, "lora_C"),
        ({"layers": 1e-4, "lora_B": 1e-4}, "lora_B"),
        ({"lora": 1e-4}, "lora"),
    ],
)
def test_a_pattern_that_picks_nothing_is_refused(rates: dict[str, float], pattern: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{pattern}' picks nothing .* layers\.\*\.lora_A\."):
        names_by_rate(NAMES, run(learning_rates=rates).train)


@pytest.mark.parametrize("rate", ["x", "fast", "-2x", 0, 11])
def test_a_rate_is_a_number_or_a_multiple(rate: Any) -> None:
    with pytest.raises(ValueError, match="learning_rates"):
        run(learning_rates={"lora_B": rate})


class TwoWeights(torch.nn.Module):
    """A model whose loss pulls each of two weights by the same gradient, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = torch.nn.Parameter(torch.zeros(2))
        self.fast = torch.nn.Parameter(torch.zeros(3))
        self.offset = 1.0

    def forward(self, labels: torch.Tensor, use_cache: bool) -> Any:
        return CausalLMOutput(loss=self.slow.sum() + self.fast.sum() + self.offset)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_each_group_of_weights_moves_at_its_own_rate_down_the_schedule(zero_stage: int) -> None:
    choose_accelerator()
    settings = run(learning_rates={"fast": "10x"}, max_grad_norm=None, adam_epsilon=1e-12)
    settings = settings.model_copy(
        update={"deepspeed": settings.deepspeed.model_copy(update={"zero_stage": zero_stage})}
    )
    model: Any = TwoWeights()
    engine = DeepSpeedEngine(model, settings, total_steps=4)
    batch = {"labels": torch.tensor([[-100, 1]])}
    for step in range(2):
        stats = engine.train_step([batch], num_label_tokens=1)
        assert stats.learning_rate == pytest.approx(1e-3 * (1 - step / 4))
    moved = engine.trained_weights()
    engine.close()
    # Adam moves by its rate where the gradient is always the same: 1 and 3/4 of the peak.
    assert moved["slow"].tolist() == pytest.approx([-1.75e-3] * 2, rel=1e-5)
    assert moved["fast"].tolist() == pytest.approx([-1.75e-2] * 3, rel=1e-5)


def test_a_loss_of_exactly_0_ends_the_trial_before_the_step_with_its_likely_cause() -> None:
    choose_accelerator()
    model: Any = TwoWeights()
    model.offset = 0.0
    engine = DeepSpeedEngine(model, run(), total_steps=4)
    with pytest.raises(ZeroLossError, match=r"0 at step 1, .*model\.precision=fp32 .*by heart"):
        engine.train_step([{"labels": torch.tensor([[-100, 1]])}], num_label_tokens=1)
    assert not engine.trained_weights()["slow"].any()
    engine.close()
