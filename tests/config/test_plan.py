"""Steps of a trial, and after which of them it is evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_glm.config import RunConfig
from raytune_glm.config.plan import is_evaluated, total_steps


def run(**train: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train": "t.json"},
            "method": {"name": "lora"},
            "train": {"batch_size": 16, **train},
        }
    )


@pytest.mark.parametrize(
    ("train", "num_rows", "steps"),
    [
        ({"max_steps": 120}, 720, 120),
        ({"max_steps": 120}, 3, 120),
        ({"epochs": 1}, 720, 45),
        ({"epochs": 1}, 721, 46),
        ({"epochs": 2}, 24, 3),
        ({"epochs": 0.5}, 720, 23),
        ({"epochs": 1}, 5, 1),
    ],
)
def test_steps_are_as_written_or_enough_for_the_epochs(
    train: dict[str, Any], num_rows: int, steps: int
) -> None:
    assert total_steps(run(**train).train, num_rows=num_rows) == steps


def test_an_evaluation_follows_every_so_many_steps_and_the_last_one() -> None:
    evaluated = [
        step
        for step in range(1, 11)
        if is_evaluated(run(max_steps=10, eval_every_steps=4), step, 10)
    ]
    assert evaluated == [4, 8, 10]


def test_without_an_interval_only_the_last_step_is_evaluated() -> None:
    assert [step for step in range(1, 11) if is_evaluated(run(max_steps=10), step, 10)] == [10]
