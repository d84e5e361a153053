"""TensorBoard's event files in the trial's folder, which `tensorboard --logdir results` shows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from raytune_glm.tracking.tracker import Tracked, Tracker

FOLDER = "tensorboard"
"""Folder of the events in a trial's folder."""


class TensorBoard(Tracker):
    """Writes events by tensorboardX, which Ray Tune brings: no TensorFlow, no TensorBoard."""

    def __init__(self, trial: Tracked) -> None:
        """Begin the events anew: a resumed trial tells those of before again."""
        from tensorboardX import SummaryWriter

        folder = trial.folder / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()
