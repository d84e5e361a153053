"""Trackers: where a trial's figures go beside its own files. One file a tracker, a line below.

TensorBoard's events are always written; `run.track` adds others. Read next: `tracker`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence

from raytune_glm.errors import ConfigError
from raytune_glm.tracking.mlflow import MLflow
from raytune_glm.tracking.tensorboard import TensorBoard
from raytune_glm.tracking.tracker import Tracked, Tracker, Trackers
from raytune_glm.tracking.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {"wandb": WandB, "mlflow": MLflow}
"""Those that `run.track` may name; each by the name of the package that it needs."""


def require_packages(names: Collection[str]) -> None:
    """Refuse trackers whose package is not installed, without importing any.

    Raises:
        ConfigError: The package, and how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"run.track must name trackers whose package is installed, but {name} is not: "
                f"`pip install 'raytune-glm[{name}]'` on every host, or leave it out"
            )


def open_trackers(trial: Tracked, names: Sequence[str]) -> Trackers:
    """Open TensorBoard's and the named trackers for a trial, new or resumed."""
    return Trackers([TensorBoard(trial), *(TRACKERS[name](trial) for name in names)])


__all__ = ["TRACKERS", "Tracked", "Tracker", "Trackers", "open_trackers", "require_packages"]
