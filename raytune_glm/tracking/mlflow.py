"""MLflow: a run a trial, in an experiment of the sweep's name, at `MLFLOW_TRACKING_URI`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from raytune_glm.tracking.tracker import Tracked, Tracker

DATABASE = "mlflow.db"
"""Where no server is named: an SQLite file in the results folder of the sweep."""


class MLflow(Tracker):
    """Logs through MLflow's client, which keeps no state of a process."""

    def __init__(self, trial: Tracked) -> None:
        """Start a run, or go on with the one that a resumed trial had."""
        from mlflow import MlflowClient

        results = trial.folder.parents[1]
        here = f"sqlite:///{results / DATABASE}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
        former = trial.run_id("mlflow")
        self._run_id = former or self._start(trial)
        trial.remember("mlflow", self._run_id)
        # Metric -> last step that an earlier start of the trial told.
        self._told = {
            name: max(point.step for point in self._client.get_metric_history(self._run_id, name))
            for name in self._client.get_run(self._run_id).data.metrics
        }
        if former:
            self._client.update_run(self._run_id, status="RUNNING")

    def _start(self, trial: Tracked) -> str:
        experiment = self._client.get_experiment_by_name(trial.sweep)
        experiment_id = (
            self._client.create_experiment(trial.sweep)
            if experiment is None
            else experiment.experiment_id
        )
        run = self._client.create_run(experiment_id, run_name=trial.folder.name)
        for path, value in trial.settings.items():
            self._client.log_param(run.info.run_id, path, value)
        return str(run.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, step)
            for name, value in values.items()
            if step > self._told.get(name, -1)
        ]
        if new:
            self._client.log_batch(self._run_id, metrics=new)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run_id)
