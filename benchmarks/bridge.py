"""The parts of a sweep on the driver that stand between the study and Ray Tune, without Ray."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from ray.tune.experiment import Trial
from rich.console import Console

from raytune_glm.config import RunConfig
from raytune_glm.metrics import METRICS
from raytune_glm.search import SearchSettings
from raytune_glm.trials.bridge import LedgerCallback, LedgerSearcher
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.ramp import Ramp
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.steering import Steering
from raytune_glm.trials.study import storage_of

BASE = RunConfig.model_validate(
    {
        "model": {"path": "none"},
        "data": {"train": "none.jsonl"},
        "method": {"name": "lora"},
        "train": {"max_steps": 1},
    }
)
"""A run that nobody trains."""


class Bridge:
    """A ledger with its searcher and its callback, called as Ray Tune calls them."""

    def __init__(self, folder: Path, settings: SearchSettings) -> None:
        """Open the sweep in `folder`, minimizing the settings' metric."""
        self._results = results = ResultsFolder(folder)
        self._settings = settings
        self.ledger = Ledger(results, settings, mode="min")
        progress = Progress(Console(file=io.StringIO()), settings, mode="min", rows=())
        steering = Steering(results, self.ledger, BASE, progress)
        self._searcher = LedgerSearcher(
            self.ledger,
            steering,
            lambda name, params: {"params": params, "folder": str(results.trial(name))},
        )
        self._callback = LedgerCallback(
            self.ledger,
            steering,
            progress,
            DiskBudget(results, None, METRICS[settings.metric]),
            on_end=lambda trial_id: None,
            on_leave=lambda trial_id: None,
            ramp=Ramp(1),
        )

    def begin(self) -> Trial:
        """Begin the trial that the ledger proposes; its values are its configuration's `params`."""
        trial = Trial("nothing", stub=True)
        trial.config = self._searcher.suggest("")
        self._callback.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Trial, report: Mapping[str, Any]) -> None:
        """Tell an evaluation."""
        self._tell(trial, {**report, "report": dict(report)})

    def end(self, trial: Trial, ending: Mapping[str, str] | None = None) -> None:
        """Tell a trial's end, by itself or the scheduler, or by what went wrong."""
        if ending is not None:
            self._tell(trial, {"ending": dict(ending)})
        self._callback.on_trial_complete(0, [], trial)

    def _tell(self, trial: Trial, result: dict[str, Any]) -> None:
        self._callback.on_trial_result(0, [], trial, result)
        trial.update_last_result(result)

    def study(self) -> optuna.Study:
        """The study as it is on disk."""
        storage = storage_of(self._results, self._settings.storage)
        return optuna.load_study(study_name=self._results.root.name, storage=storage)
