"""What `ctl status` says of a results folder, and what it advises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raytune_glm import files
from raytune_glm.config import load_sweep
from raytune_glm.metrics import METRICS
from raytune_glm.report.confirmation import conclude
from raytune_glm.report.outcome import repeats_of
from raytune_glm.report.status import Status
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.records import ResultsFolder, State, TrialRow


def folder(root: Path, *, num_trials: int, **search: Any) -> ResultsFolder:
    results = ResultsFolder(root)
    tree = {
        "model": {"path": "base"},
        "data": {"train": "rows.jsonl"},
        "method": {"name": "lora"},
        "train": {"max_steps": 4},
        "search": {
            "metric": "eval_loss",
            "num_trials": num_trials,
            "space": {"method.rank": {"choice": [4, 8]}},
            **search,
        },
        "run": {"name": "s"},
    }
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


def confirmed(results: ResultsFolder, *, repeats: int) -> None:
    """Two trials, the first the better, of which `repeats` of four repeats have ended."""
    sweep = load_sweep(results.settings)
    for row in (ended(0, 0.5), ended(1, 0.6)):
        results.add(row)
    found = repeats_of(results, sweep)
    assert found is not None
    losses = (0.55, 0.41, 0.53, 0.42)  # the second trial is the better one under new seeds
    for number, (values, loss) in enumerate(zip(found.search.start_with, losses, strict=True)):
        if number < repeats:
            found.results.add(ended(number, loss).model_copy(update={"params": values}))
    if repeats == len(losses):
        conclude(found, METRICS["eval_loss"])


def test_a_sweep_that_is_over_names_the_winner_that_its_repeats_chose(tmp_path: Path) -> None:
    results = folder(tmp_path, num_trials=2, confirm={"top": 2, "seeds": 2})
    confirmed(results, repeats=4)
    status = Status.of(tmp_path)
    told = status.describe(is_running=False).splitlines()
    assert told[0] == "s: over, 2 of 2 trials ended (2 COMPLETE)"
    assert told[-1] == "winner: trial 1, eval_loss=0.6000, its saved adapter not scored yet"
    assert "higher search.num_trials" in status.how_to_steer()
    files.write_json(results.trial("0001") / "scores.json", {"dev": {"eval_loss": 0.6}})
    assert status.describe(is_running=False).endswith("winner: trial 1, eval_loss=0.6000")


def test_a_sweep_that_was_killed_while_its_best_were_repeated_is_not_over(tmp_path: Path) -> None:
    results = folder(tmp_path, num_trials=2, confirm={"top": 2, "seeds": 2})
    confirmed(results, repeats=3)
    status = Status.of(tmp_path)
    told = status.describe(is_running=False).splitlines()
    assert told[0] == (
        "s: not running, 2 of 2 trials ended, 3 of 4 repeats under new seeds ended (2 COMPLETE)"
    )
    assert told[-1] == "best so far: trial 0, eval_loss=0.5000"
    assert "goes on where it was" in status.how_to_steer()


def test_looking_at_a_sweep_leaves_nothing_in_its_folder(tmp_path: Path) -> None:
    results = folder(tmp_path, num_trials=2, confirm={"top": 2, "seeds": 2})
    results.add(ended(0, 0.5))
    before = sorted(tmp_path.rglob("*"))
    Status.of(tmp_path).describe(is_running=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_that_was_killed_is_to_be_started_again(tmp_path: Path) -> None:
    folder(tmp_path, num_trials=2)
    status = Status.of(tmp_path)
    assert status.describe(is_running=False) == "s: not running, 0 of 2 trials ended"
    assert "goes on where it was" in status.how_to_steer()


def test_trials_that_were_added_count_before_they_begin(tmp_path: Path) -> None:
    results = folder(tmp_path / "s", num_trials=1)
    search = load_sweep(results.settings).search
    ledger = Ledger(results, search, mode="min")
    ledger.propose()
    results.trial("0000").mkdir(parents=True)
    ledger.add(2)
    ledger.copy(0, ledger.params_of(0), warm=False)
    report = {"step": 4, "total_steps": 4, "eval_loss": 0.5, "first_step_at": 2e9}
    ledger.report(0, report)
    ledger.finish(0, State.COMPLETE)
    status = Status.of(results.root)
    told = status.describe(is_running=False)
    assert told.splitlines()[0] == "s: not running, 1 of 4 trials ended (1 COMPLETE)"
