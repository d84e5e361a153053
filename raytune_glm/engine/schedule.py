"""Learning rate over the steps of a trial, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def _line(progress: float) -> float:
    return 1.0 - progress


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _flat(progress: float) -> float:
    del progress
    return 1.0


SHAPES: dict[Schedule, Callable[[float], float]] = {
    "linear": _line,
    "cosine": _half_cosine,
    "constant": _flat,
}


def num_warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Steps of the warm-up: the ratio of all steps, rounded up, and never all of them."""
    return min(math.ceil(total_steps * warmup_ratio), total_steps - 1)


def learning_rate_factor(
    step: int, *, schedule: Schedule, total_steps: int, warmup_ratio: float
) -> float:
    """Share of the peak learning rate that a step is taken with.

    Args:
        step: Steps done before this one; 0 is the first.
        schedule: Shape after the warm-up.
        total_steps: Steps of the whole trial.
        warmup_ratio: Share of them in which the rate rises; the first step already moves, with
            1/n of the peak for n warm-up steps, where transformers' schedules waste it on 0.

    Returns:
        A factor in (0, 1]; 0 from `total_steps` on, where nothing is left to train.
    """
    warmup = num_warmup_steps(total_steps, warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return SHAPES[schedule](min(1.0, (step - warmup) / (total_steps - warmup)))
