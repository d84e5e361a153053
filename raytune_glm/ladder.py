"""The out-of-memory ladder: settings that need less memory and give the same result.

A trial that does not fit goes down one rung after another, each on top of those before: gradient
checkpointing, a smaller micro-batch at the same effective batch, a higher ZeRO stage, offload. The
rungs that it took are in `ladder.jsonl` in its folder, so that whoever starts the trial again,
after a kill too, goes on where it was. Whoever runs trials calls `applied` before an attempt and
`descend` after one that ran out of memory. Read next: `raytune_glm.trials.trainable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raytune_glm import files
from raytune_glm.checkpoint import drop_state
from raytune_glm.config import RunConfig, trial_run
from raytune_glm.errors import ConfigError
from raytune_glm.space import Overrides

LADDER = "ladder.jsonl"
"""File in a trial's folder: a line a rung, with `changes` (dotted path -> value) and the `error`
that led to it."""


def changes_of(folder: Path) -> Overrides:
    """What the ladder changed in the settings of the trial in `folder`; empty: nothing."""
    changes: Overrides = {}
    for rung in files.read_lines(folder / LADDER):
        changes.update(rung["changes"])
    return changes


def copy(source: Path, folder: Path) -> None:
    """Have the trial in `folder` begin on the rung that the one in `source` has reached."""
    for rung in files.read_lines(source / LADDER):
        files.append_line(folder / LADDER, rung)


def applied(run: RunConfig, folder: Path) -> RunConfig:
    """The settings that a trial runs with: as they were chosen, on the rung that it has reached."""
    return trial_run(run, changes_of(folder))


def descend(run: RunConfig, folder: Path, error: str, *, on_gpu: bool) -> Overrides | None:
    """Take a trial that ran out of memory to its next rung, on disk.

    Args:
        run: The settings that it ran out of memory with.
        folder: The trial's folder.
        error: What could not be had.
        on_gpu: Whether its workers have a GPU, whose memory the host's can spare.

    Returns:
        What the rung changes, or None where there is none left: the trial is infeasible.
    """
    changes = step_down(run, on_gpu=on_gpu)
    if changes is None:
        return None
    if any(path.startswith("deepspeed.") for path in changes):
        # Ranks hold other parts of the state at another stage: such a trial begins anew.
        drop_state(folder / "checkpoint")
    files.append_line(folder / LADDER, {"changes": changes, "error": error})
    return changes


def step_down(run: RunConfig, *, on_gpu: bool) -> Overrides | None:
    """The next settings that need less memory and change nothing but rounding, or None."""
    for changes in _rungs_below(run, on_gpu=on_gpu):
        try:
            trial_run(run, changes)
        except ConfigError:
            continue  # such as ZeRO-3 with packed weights
        return changes
    return None


def _rungs_below(run: RunConfig, *, on_gpu: bool) -> Iterator[Overrides]:
    train, stage = run.train, run.deepspeed.zero_stage
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
    smaller = _smaller_micro_batch(run)
    if smaller is not None:
        eval_rows = max(1, train.eval_batch_size * smaller // train.micro_batch_size)
        yield {"train.micro_batch_size": smaller, "train.eval_batch_size": eval_rows}
    elif train.eval_batch_size > 1:
        yield {"train.eval_batch_size": 1}
    if run.run.num_workers > 1:
        # Stage 1 spreads what adapters have little of: it would be a rung that saves nothing.
        yield from ({"deepspeed.zero_stage": higher} for higher in (2, 3) if higher > stage)
    if on_gpu and run.deepspeed.offload_optimizer == "none":
        yield {"deepspeed.zero_stage": max(1, stage), "deepspeed.offload_optimizer": "cpu"}
    if on_gpu and run.deepspeed.offload_parameters == "none":
        yield {"deepspeed.zero_stage": 3, "deepspeed.offload_parameters": "cpu"}


def _smaller_micro_batch(run: RunConfig) -> int | None:
    """The largest micro-batch of at most half the size that the effective batch is made of."""
    rows = run.train.batch_size // run.run.num_workers
    sizes = [n for n in range(1, run.train.micro_batch_size // 2 + 1) if rows % n == 0]
    return max(sizes, default=None)
