"""The end of a run that was trained alone: its summary and its adapter, on disk and in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.metrics import METRICS
from raytune_glm.report.outcome import warn_of_other_loss
from raytune_glm.report.winner import publish_adapter
from raytune_glm.trials.receipt import Scores, read_receipt
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

if TYPE_CHECKING:
    from rich.console import Console


def read_row(results: ResultsFolder) -> TrialRow | None:
    """How the run ended, where it has; None where it has not, or not come to its last step."""
    path = results.root / "summary.json"
    if not path.exists():
        return None
    row = TrialRow.model_validate(json.loads(path.read_text(encoding="utf-8"))["result"])
    return row if row.state is State.COMPLETE else None


def write_run_outcome(results: ResultsFolder, run: SweepConfig, row: TrialRow) -> None:
    """Write `best/` and `summary.json`: what programs read of the run."""
    if row.best_step is not None:
        publish_adapter(results.root / "checkpoint", row.best_step, results.root)
    summary: dict[str, Any] = {
        "name": run.run.name,
        "metric": run.search.metric,
        "mode": METRICS[run.search.metric].direction,
        "result": row.model_dump(mode="json"),
        "reloaded": read_receipt(results, row),
    }
    files.write_json(results.root / "summary.json", summary)


def print_run_outcome(
    results: ResultsFolder, run: SweepConfig, row: TrialRow, console: Console
) -> None:
    """Print how the run ended, and its scores on the rows that it did not train on."""
    console.print()
    if row.state is not State.COMPLETE:
        console.print(f"{row.state.value.lower()} at step {row.steps}: {row.error}", style="red")
        console.print(f"log         {results.root / 'worker.log'}", highlight=False)
        return
    receipt = read_receipt(results, row) or {}
    scores = _scores(row, receipt)
    if scores:
        console.print(_table(scores))
        console.print()
    warn_of_other_loss(row, receipt, run, console)
    final = row.metrics["final"]
    for name, text in {
        "trained": f"{row.steps} steps in {row.seconds or 0:.0f} s, "
        f"train_loss={final['train_loss']:.4f} at the end, "
        f"{row.trainable_parameters or 0:,} parameters",
        "best": f"step {row.best_step}, by {run.search.metric} on dev"
        if scores
        else f"step {row.best_step}, the last one: there are no dev rows",
        "adapter": str(results.root / "best"),
        "results": f"{results.root}  (summary.json, metrics.jsonl, train.jsonl, run.yaml)",
    }.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False)


def _scores(row: TrialRow, receipt: Scores) -> Scores:
    """By split: on dev what the run reported, on test what the saved adapter has."""
    measured = {name: value for name, value in row.metrics["best"].items() if name in METRICS}
    dev = {"dev": measured} if measured else {}
    return {**dev, **{split: values for split, values in receipt.items() if split != "dev"}}


def _table(scores: Scores) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for split in scores:
        table.add_column(split, justify="right")
    for name in METRICS:
        values = [split.get(name) for split in scores.values()]
        if any(value is not None for value in values):
            table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    return table
