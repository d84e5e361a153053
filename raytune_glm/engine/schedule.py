"""Learning rate over the steps of a trial, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

Schedule = Literal["linear", "cosine", "constant", "warmup_decay"]

PUBLISHED_FLOOR = 0.1
"""Share of the peak at which `warmup_decay` begins and ends: `warmup_min_lr` is a tenth of the
learning rate in `train.py` of ChatGLM-Finetuning (at 232c8e2)."""


def _line(progress: float) -> float:
    return 1.0 - progress


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _flat(progress: float) -> float:
    del progress
    return 1.0


def num_warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Steps of the warm-up: the ratio of all steps, rounded up, and never all of them."""
    # Rounded first: 388 x (100 / 388) is a hair above 100 in floating point, and not a step more.
    return min(math.ceil(round(total_steps * warmup_ratio, 9)), total_steps - 1)


def _after_rising(
    shape: Callable[[float], float], step: int, total_steps: int, warmup_ratio: float
) -> float:
    """Rise in a line to the peak, then follow a shape of the share of steps that is done."""
    warmup = num_warmup_steps(total_steps, warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return shape(min(1.0, (step - warmup) / (total_steps - warmup)))


def _warmup_decay(step: int, total_steps: int, warmup_ratio: float) -> float:
    """DeepSpeed's `WarmupDecayLR` as the published configurations have it.

    They ask for a warm-up of type `cosine`, which DeepSpeed does not have and replaces by its
    logarithmic one. It counts a step less than are done, so the first two steps are at the floor.
    """
    warmup = max(2, int(total_steps * warmup_ratio))
    counted = max(0, step - 1)
    if counted < warmup:
        rise = math.log(counted + 1) / math.log(warmup)
    else:
        rise = max(0.0, (total_steps - counted) / max(1, total_steps - warmup))
    return PUBLISHED_FLOOR + (1.0 - PUBLISHED_FLOOR) * rise


SCHEDULES: dict[Schedule, Callable[[int, int, float], float]] = {
    "linear": partial(_after_rising, _line),
    "cosine": partial(_after_rising, _half_cosine),
    "constant": partial(_after_rising, _flat),
    "warmup_decay": _warmup_decay,
}
"""Factor of each schedule: of steps done, steps in all, and the share of them that warms up."""


def learning_rate_factor(
    step: int, *, schedule: Schedule, total_steps: int, warmup_ratio: float
) -> float:
    """Share of the peak learning rate that a step is taken with.

    Args:
        step: Steps done before this one; 0 is the first.
        schedule: Shape of the rate over the steps.
        total_steps: Steps of the whole trial.
        warmup_ratio: Share of them in which the rate rises. But in `warmup_decay` the first step
            already moves, with 1/n of the peak for n warm-up steps, where transformers' schedules
            waste it on 0.

    Returns:
        A factor in (0, 1]; from `total_steps` on, where nothing is left to train, what the schedule
        ends at.
    """
    return SCHEDULES[schedule](step, total_steps, warmup_ratio)
