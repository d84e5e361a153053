"""The arithmetic that follows from a configuration: how many steps, and when to evaluate."""

from __future__ import annotations

import math

from raytune_glm.config.tree import RunConfig, TrainSettings


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
