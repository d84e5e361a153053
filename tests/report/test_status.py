"""What `ctl status` says of a results folder, and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from raytune_glm import files
from raytune_glm.report.status import Status
from raytune_glm.trials.records import ResultsFolder, State, TrialRow


def folder(root: Path, *, num_trials: int) -> ResultsFolder:
    results = ResultsFolder(root)
    tree = {"run": {"name": "s"}, "search": {"metric": "eval_loss", "num_trials": num_trials}}
    results.settings.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return results


def ended(number: int, loss: float, state: State = State.COMPLETE) -> TrialRow:
    return TrialRow(
        number=number,
        id=f"{number:04d}",
        state=state,
        params={},
        metrics={"final": {}, "best": {"eval_loss": loss}},
        best_step=4,
        steps=4,
        seconds=1.0,
        start_seconds=1.0,
        tokens_per_second=1.0,
        peak_memory_bytes=1,
        trainable_parameters=1,
    )


def test_trials_are_told_by_number_whatever_the_order_of_their_ends(tmp_path: Path) -> None:
    results = folder(tmp_path, num_trials=4)
    for number, loss in ((2, 0.5), (0, 0.7)):
        results.trial(f"{number:04d}").mkdir(parents=True)
        results.add(ended(number, loss))
    report = {"step": 2, "total_steps": 4, "eval_loss": 0.9}
    files.append_line(results.trial("0001") / "metrics.jsonl", report)
    assert Status.of(tmp_path).describe(is_running=True).splitlines() == [
        "s: running, 2 of 4 trials ended (2 COMPLETE)",
        "    0  COMPLETE    step 4  best eval_loss=0.7000",
        "    1  begun       step 2 of 4  eval_loss=0.9000",
        "    2  COMPLETE    step 4  best eval_loss=0.5000",
        "best so far: trial 2, eval_loss=0.5000",
    ]


def test_a_sweep_that_is_over_names_the_winner_that_its_repeats_chose(tmp_path: Path) -> None:
    results = folder(tmp_path, num_trials=2)
    rows = [ended(0, 0.5), ended(1, 0.6)]
    for row in rows:
        results.add(row)
    summary = {"best": rows[1].model_dump(mode="json")}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    status = Status.of(tmp_path)
    told = status.describe(is_running=False).splitlines()
    assert told[0] == "s: over, 2 of 2 trials ended (2 COMPLETE)"
    assert told[-1] == "winner: trial 1, eval_loss=0.6000"
    assert "higher search.num_trials" in status.how_to_steer()


def test_a_sweep_that_was_killed_is_to_be_started_again(tmp_path: Path) -> None:
    folder(tmp_path, num_trials=2)
    status = Status.of(tmp_path)
    assert status.describe(is_running=False) == "s: not running, 0 of 2 trials ended"
    assert "goes on where it was" in status.how_to_steer()
