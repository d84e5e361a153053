"""What follows from a configuration: the order of rows, how many steps, when to evaluate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raytune_glm.config.tree import RunConfig, TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from raytune_glm.data.order import BatchOrder


def batch_order(train: TrainSettings, rows: Dataset) -> BatchOrder:
    """The order in which a trial trains on encoded rows."""
    import numpy as np

    from raytune_glm.data.order import BatchOrder

    return BatchOrder(
        num_rows=len(rows),
        batch_size=train.batch_size,
        seed=train.seed,
        lengths=np.asarray(rows["length"]) if train.group_by_length else None,
    )


def total_steps(train: TrainSettings, *, num_rows: int) -> int:
    """Optimizer steps of a trial.

    Args:
        train: The `train` section.
        num_rows: Training rows, after encoding.

    Returns:
        `max_steps`, or the steps after which `epochs` are over, the last one going on into the next
        epoch where it is not full.
    """
    if train.max_steps is not None:
        return train.max_steps
    assert train.epochs is not None, "the configuration has one of the two"
    # Rounded first: 1.1 x 100 / 10 is a hair above 11 in floating point, and not a step more.
    return math.ceil(round(train.epochs * num_rows / train.batch_size, 9))


def is_evaluated(run: RunConfig, step: int, last_step: int) -> bool:
    """Whether an evaluation follows a step: every `eval_every_steps`, and after the last one."""
    every = run.train.eval_every_steps
    return step == last_step or (every is not None and step % every == 0)


def steps_to_evaluation(run: RunConfig, step: int, last_step: int) -> int:
    """How many steps after `step` the next evaluation comes."""
    every, left = run.train.eval_every_steps, last_step - step
    return left if every is None else min(left, every - step % every)
