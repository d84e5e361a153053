"""Trackers: what they are told is in their own files, once, whatever was resumed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.errors import ConfigError
from raytune_glm.tracking import Tracked, Trackers, open_trackers, require_packages
from raytune_glm.tracking.tracker import Tracker

LINES = [
    {"step": step, "loss": 3.0 - step / 10, "learning_rate": 1e-3, "grad_norm": norm}
    for step, norm in ((2, 1.5), (4, None), (6, 1.25))
]
REPORTS = [
    {
        "step": step,
        "eval_loss": 2.0 - step / 10,
        "triple_f1": 0.25,
        "epoch": step / 8,
        "tokens_per_second": 90.0,
        "skipped_steps": 0,
        "peak_memory_bytes": 2**20,
    }
    for step in (4, 6)
]


def trial(results: Path) -> Tracked:
    folder = results / "trials" / "0003"
    folder.mkdir(parents=True, exist_ok=True)
    return Tracked(sweep="my-sweep", folder=folder, settings={"method.rank": 8, "data.dev": None})


def tell(results: Path, *names: str) -> None:
    """Two steps and an evaluation; then the trial is killed and resumed, and goes on to its end."""
    trackers = open_trackers(trial(results), names)
    trackers.log_step(LINES[0])
    trackers.log_step(LINES[1])
    trackers.log_evaluation(REPORTS[0])
    trackers.close()
    trackers = open_trackers(trial(results), names)
    trackers.log_again(LINES[:2], REPORTS[:1])
    trackers.log_step(LINES[2])
    trackers.log_evaluation(REPORTS[1])
    trackers.close()


def events(folder: Path) -> Iterator[Any]:
    """Read TensorBoard's files: length, checksum, event, checksum (TFRecord)."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            [length] = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def test_tensorboard_has_every_figure_of_every_step_once(tmp_path: Path) -> None:
    tell(tmp_path)
    found = [
        (event.step, value.tag, pytest.approx(value.simple_value))
        for event in events(tmp_path / "trials/0003/tensorboard")
        for value in event.summary.value
    ]
    losses = [(step, value) for step, tag, value in found if tag == "train/loss"]
    assert losses == [(line["step"], line["loss"]) for line in LINES]
    assert [s for s, tag, _ in found if tag == "train/grad_norm"] == [2, 6]
    f1 = [(step, value) for step, tag, value in found if tag == "dev/triple_f1"]
    assert f1 == [(4, 0.25), (6, 0.25)]
    assert len({(step, tag) for step, tag, _ in found}) == len(found)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is dep:DeprecationWarning")
def test_mlflow_has_one_run_with_every_figure_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tell(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("my-sweep")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "0003"
    assert run.info.status == "FINISHED"
    assert run.data.params["method.rank"] == "8"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(line["step"], line["loss"]) for line in LINES]
    dev = client.get_metric_history(run.info.run_id, "dev/eval_loss")
    assert [point.step for point in dev] == [4, 6]


def test_wandb_writes_its_runs_into_the_trials_folder_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tell(tmp_path, "wandb")
    files = list((tmp_path / "trials/0003/wandb").glob("offline-run-*/run-*.wandb"))
    assert files
    assert all(file.stat().st_size for file in files)
    # One and the same run, of which each start wrote a part.
    assert len({file.stem for file in files}) == 1


def test_a_tracker_whose_package_is_missing_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name)
    )
    require_packages(["json"])
    with pytest.raises(ConfigError, match=r"wandb is not: `pip install 'raytune-glm\[wandb\]'`"):
        require_packages(["json", "wandb"])


class Away(Tracker):
    """A tracker whose service cannot be reached."""

    def __init__(self) -> None:
        self.asked = 0

    def log(self, step: int, values: Any) -> None:
        self.asked += 1
        raise ConnectionError("away")

    def close(self) -> None:
        raise ConnectionError("away")


def test_a_service_that_is_away_is_left_out_and_does_not_end_the_trial() -> None:
    away = Away()
    trackers = Trackers([away])
    for line in LINES:
        trackers.log_step(line)
    trackers.close()
    assert away.asked == 1
