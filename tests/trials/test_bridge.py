"""A full disk and an exceeded budget stop the sweep; what ran goes on with the next run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from rich.console import Console

from raytune_glm import files
from raytune_glm.config import RunConfig
from raytune_glm.metrics import METRICS
from raytune_glm.search import SearchSettings
from raytune_glm.trials.bridge import LedgerCallback
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.ramp import Ramp
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.steering import Steering

SETTINGS = SearchSettings.model_validate(
    {
        "num_trials": 2,
        "sampler": {"name": "random"},
        "space": {"train.learning_rate": {"log_range": [1e-4, 1e-2]}},
    }
)
REPORT = {
    **{"step": 2, "total_steps": 4, "eval_loss": 1.0, "train_loss": 1.0},
    **{"first_step_at": 2e9, "seconds": 1.0},
}


BASE = RunConfig.model_validate(
    {
        "model": {"path": "none"},
        "data": {"train": "none.jsonl"},
        "method": {"name": "lora"},
        "train": {"max_steps": 1},
    }
)


class Sweep:
    """A sweep's parts on the driver, with one trial that is running."""

    def __init__(self, root: Path, *, budget_gb: float | None = None) -> None:
        self.results = ResultsFolder(root / "sweep")
        self.said = io.StringIO()
        self.left: list[str] = []
        self.ledger = self.opened()
        console = Console(file=self.said, soft_wrap=True)
        progress = Progress(console, SETTINGS, mode="min", rows=[])
        budget = DiskBudget(self.results, budget_gb, METRICS["eval_loss"])
        steering = Steering(self.results, self.ledger, BASE, progress)
        self.callback = LedgerCallback(
            self.ledger,
            steering,
            progress,
            budget,
            on_end=lambda _: None,
            on_leave=self.left.append,
            ramp=Ramp(1),
        )
        self.live = self.ledger.propose()
        self.folder = self.results.trial(self.live.id)
        config = {"number": self.live.number, "folder": str(self.folder)}
        self.trial = Trial("trial", stub=True, config=config)

    def opened(self) -> Ledger:
        return Ledger(self.results, SETTINGS, mode="min")

    def save(self) -> Path:
        """Have the trial hold a checkpoint of 2 MB, state and adapter."""
        checkpoint = self.folder / "checkpoint"
        for name in ("state/step-000002", "adapter/step-000002"):
            (checkpoint / name).mkdir(parents=True)
            (checkpoint / name / "weights").write_bytes(bytes(1_000_000))
        index = {"state": "state/step-000002", "adapters": ["adapter/step-000002"]}
        files.write_json(checkpoint / "index.json", index)
        return checkpoint


def told(sweep: Sweep, result: dict[str, Any]) -> None:
    sweep.trial.run_metadata.last_result = result
    sweep.callback.on_trial_result(0, [sweep.trial], sweep.trial, result)


def test_a_full_disk_stops_the_sweep_and_its_trial_goes_on_with_the_next_run(
    tmp_path: Path,
) -> None:
    sweep = Sweep(tmp_path)
    checkpoint = sweep.save()
    assert not sweep.callback.brake.stop_all()
    told(sweep, {"ending": {"state": "NO_ROOM", "error": "no room for the checkpoint"}})
    sweep.callback.on_trial_complete(0, [sweep.trial], sweep.trial)

    assert sweep.callback.brake.stop_all()
    assert "no room for the checkpoint" in sweep.said.getvalue()
    assert (checkpoint / "state/step-000002/weights").exists()
    assert sweep.results.rows() == []
    assert sweep.opened().propose().number == sweep.live.number


@pytest.mark.parametrize(("budget_gb", "stops"), [(0.003, False), (0.001, True)])
def test_running_trials_that_exceed_the_budget_stop_the_sweep_and_keep_what_they_have(
    tmp_path: Path, budget_gb: float, stops: bool
) -> None:
    sweep = Sweep(tmp_path, budget_gb=budget_gb)
    checkpoint = sweep.save()
    told(sweep, {**REPORT, "report": REPORT})
    assert sweep.callback.brake.stop_all() is stops
    assert ("run.disk_budget_gb=0.001 cannot be kept" in sweep.said.getvalue()) is stops
    assert (checkpoint / "state/step-000002/weights").exists()


def test_a_trial_that_its_host_lets_go_waits_for_its_workers_in_whatever_process(
    tmp_path: Path,
) -> None:
    sweep = Sweep(tmp_path)
    sweep.trial.config["door"] = "0.json"
    told(sweep, {"retry": {"train.micro_batch_size": 1}})
    assert sweep.left == []
    told(sweep, {"retry": {"deepspeed.offload_optimizer": "cpu"}, "needs_workers": True})
    assert sweep.left == [sweep.live.id]
    assert "door" not in sweep.trial.config, "another process would go to the host"
