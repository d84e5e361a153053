"""Weights & Biases: a run a trial, grouped by sweep, in the project `WANDB_PROJECT`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

from raytune_glm.tracking.tracker import Tracked, Tracker


class WandB(Tracker):
    """Logs to the service, or with `WANDB_MODE=offline` into the trial's folder."""

    def __init__(self, trial: Tracked) -> None:
        """Start a run, or go on with the one that a resumed trial had."""
        import wandb

        former = trial.run_id("wandb")
        run_id = former or uuid.uuid4().hex
        trial.remember("wandb", run_id)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "raytune_glm"),
            group=trial.sweep,
            name=f"{trial.sweep}-{trial.folder.name}",
            id=run_id,
            resume="allow" if former else None,
            reinit="create_new",  # trials of a pack share a process
            dir=str(trial.folder),
            config=dict(trial.settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._first_step = self._run.step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        if step >= self._first_step:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()
