"""Figures of a step that no training goes on from, and what to tell whoever set it up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raytune_glm.errors import NonFiniteLossError, ZeroLossError

if TYPE_CHECKING:
    from raytune_glm.config import RunConfig


def refuse_non_finite(what: str, value: float, step: int, run: RunConfig) -> None:
    """Refuse a loss or a norm that is no number.

    Args:
        what: Its name, for the message.
        value: The figure.
        step: Number of the step, from 1.
        run: The trial's settings.

    Raises:
        NonFiniteLossError: It is NaN or infinite.
    """
    if math.isfinite(value):
        return
    train = run.train
    likely = (
        "model.precision fp16 overflowed (use bf16 or fp32), or train.learning_rate"
        if run.model.precision == "fp16"
        else "train.learning_rate"
    )
    raise NonFiniteLossError(
        f"the {what} became {value} at step {step}; the likely cause "
        f"is that {likely}={train.learning_rate:g} is too high: lower it, lengthen "
        f"train.warmup_ratio={train.warmup_ratio:g}, or set train.max_grad_norm"
    )


def refuse_zero(loss: float, step: int, run: RunConfig) -> None:
    """Refuse a loss of exactly 0, from which nothing is learnt.

    Raises:
        ZeroLossError: It is.
    """
    if loss != 0.0:
        return
    model = run.model
    stored = f" and model.quantization={model.quantization}" if model.quantization else ""
    raise ZeroLossError(
        f"the loss became exactly 0 at step {step}, so that nothing is learnt any more; the "
        f"likely cause is arithmetic that broke in model.precision={model.precision}{stored} "
        "(use bf16 or fp32, and no quantization), or rows whose answers the model has learnt "
        "by heart (fewer steps, a lower train.learning_rate)"
    )
