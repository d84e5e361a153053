"""The disk budget: the worst goes first, the winner never, and what cannot be kept is said."""

from __future__ import annotations

from pathlib import Path

from raytune_glm import files
from raytune_glm.checkpoint import best_adapter
from raytune_glm.metrics import METRICS
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

MB = 1e-3
"""In the GB that the budget is given in."""


def finished(root: Path, number: int, loss: float, *, state: State = State.COMPLETE) -> TrialRow:
    """A trial with an adapter of 1 MB."""
    row = TrialRow(
        number=number,
        id=f"{number:04d}",
        state=state,
        params={},
        metrics={"final": {}, "best": {"eval_loss": loss}},
        best_step=10,
        steps=10,
        seconds=1.0,
        start_seconds=1.0,
        tokens_per_second=1.0,
        peak_memory_bytes=1,
        trainable_parameters=1,
    )
    saved(root / "trials" / row.id / "checkpoint")
    return row


def saved(checkpoint: Path, *, state: str | None = None) -> None:
    for name in ["adapter/step-000010", *([state] if state else [])]:
        (checkpoint / name).mkdir(parents=True)
        (checkpoint / name / "weights").write_bytes(bytes(1_000_000))
    files.write_json(
        checkpoint / "index.json", {"state": state, "adapters": ["adapter/step-000010"]}
    )


def kept(root: Path) -> list[str]:
    return [
        path.parent.name
        for path in sorted(root.glob("trials/*/checkpoint"))
        if best_adapter(path) is not None
    ]


def test_a_sweep_within_its_budget_keeps_everything(tmp_path: Path) -> None:
    rows = [finished(tmp_path, number, 1.0 + number) for number in range(3)]
    for budget in (None, 3.1 * MB):
        disk = DiskBudget(ResultsFolder(tmp_path), budget, METRICS["eval_loss"])
        assert disk.keep(rows) is None
    assert kept(tmp_path) == ["0000", "0001", "0002"]


def test_failed_trials_go_first_then_the_worst_and_the_best_never(tmp_path: Path) -> None:
    rows = [
        finished(tmp_path, 0, 2.0),
        finished(tmp_path, 1, 1.0),
        finished(tmp_path, 2, 3.0, state=State.PRUNED),
        finished(tmp_path, 3, 0.5, state=State.FAILED),
    ]
    results = ResultsFolder(tmp_path)
    for budget, expected in (
        (3.5, ["0000", "0001", "0002"]),
        (2.5, ["0000", "0001"]),
        (1.5, ["0001"]),
    ):
        assert DiskBudget(results, budget * MB, METRICS["eval_loss"]).keep(rows) is None
        assert kept(tmp_path) == expected


def test_a_state_that_nobody_goes_on_from_is_dropped_before_any_adapter(tmp_path: Path) -> None:
    rows = [finished(tmp_path, 0, 1.0), finished(tmp_path, 1, 2.0)]
    checkpoint = tmp_path / "trials/0001/checkpoint"
    (checkpoint / "index.json").unlink()
    (checkpoint / "adapter/step-000010/weights").unlink()
    (checkpoint / "adapter/step-000010").rmdir()
    saved(checkpoint, state="state/step-000010")
    disk = DiskBudget(ResultsFolder(tmp_path), 2.5 * MB, METRICS["eval_loss"])
    assert disk.keep(rows) is None
    assert kept(tmp_path) == ["0000", "0001"]
    assert not (checkpoint / "state/step-000010").exists()


def test_a_budget_that_running_trials_alone_break_is_said_and_they_are_left_alone(
    tmp_path: Path,
) -> None:
    rows = [finished(tmp_path, 0, 1.0), finished(tmp_path, 1, 2.0)]
    running = tmp_path / "trials/0002/checkpoint"
    saved(running, state="state/step-000010")
    disk = DiskBudget(ResultsFolder(tmp_path), 2 * MB, METRICS["eval_loss"])
    reason = disk.keep(rows)
    assert reason is not None
    assert "run.disk_budget_gb=0.002 cannot be kept" in reason
    assert kept(tmp_path) == ["0000", "0002"]
    assert (running / "state/step-000010").exists()
