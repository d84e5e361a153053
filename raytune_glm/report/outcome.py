"""The end of a sweep: leaderboard, summary and winner, on disk and on the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.metrics import METRICS
from raytune_glm.report.leaderboard import leaderboard, to_markdown, to_table
from raytune_glm.report.ranking import pareto_front, winner
from raytune_glm.report.variants import variants_table
from raytune_glm.report.winner import write_winner
from raytune_glm.trials.receipt import Scores, read_receipt
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

if TYPE_CHECKING:
    from rich.console import Console


def write_outcome(
    results: ResultsFolder,
    sweep: SweepConfig,
    *,
    seconds: float,
    console: Console,
) -> bool:
    """Write what the finished trials amount to, and print it.

    Args:
        results: The sweep's folder.
        sweep: The sweep.
        seconds: How long this run of the command took.
        console: Where to print.

    Returns:
        Whether the sweep has a winner.
    """
    metric = METRICS[sweep.search.metric]
    rows = results.rows()
    head, lines = leaderboard(rows, metric, sweep.search.objectives)
    text = to_markdown(head, lines)
    by_variant = variants_table(rows, sweep.search, results)
    if by_variant is not None:
        text += f"\n## By {by_variant[0][0]}\n\n{to_markdown(*by_variant)}"
    files.write_text(results.root / "leaderboard.md", text)
    best = winner(rows, metric)
    files.write_json(
        results.root / "summary.json", _summary(sweep, results, rows, best, seconds=seconds)
    )
    if rows:
        console.print()
        console.print(to_table(head, lines, width=console.width))
        console.print()
    if rows and by_variant is not None:
        console.print(to_table(*by_variant, width=console.width))
        console.print()
    if best is None:
        console.print("no trial came to an evaluation: there is no winner", style="red")
        console.print(f"logs        {results.root}/trials/*/worker.log", highlight=False)
        return False
    folder = write_winner(results, sweep, best)
    receipt = read_receipt(results, best) or {}
    scores = {"dev": best.metrics["best"], **{k: v for k, v in receipt.items() if k != "dev"}}
    told = ", ".join(
        f"{metric.name}={s[metric.name]:.4f} on {split}" for split, s in scores.items()
    )
    _warn_of_other_loss(best, receipt, sweep, console)
    for name, text in {
        "winner": f"trial {best.number}, {told}",
        "adapter": f"{folder}  (PEFT's format)",
        "again": f"python -m raytune_glm.sweep {results.root / 'best.yaml'}",
        "results": f"{results.root}  (leaderboard.md, summary.json, trials.jsonl, study.db)",
    }.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False)
    return True


TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
"""How far a reloaded adapter's loss may be from the leaderboard's: what rounding explains."""


def _warn_of_other_loss(
    best: TrialRow, receipt: Scores, sweep: SweepConfig, console: Console
) -> None:
    if "dev" not in receipt:
        return
    reported, reloaded = best.metrics["best"]["eval_loss"], receipt["dev"]["eval_loss"]
    if abs(reported - reloaded) > TOLERANCE[sweep.model.precision]:
        console.print(
            f"warning     the saved adapter gives eval_loss={reloaded:.4f} where the trial "
            f"reported {reported:.4f}",
            style="red",
        )


def _summary(
    sweep: SweepConfig,
    results: ResultsFolder,
    rows: list[TrialRow],
    best: TrialRow | None,
    *,
    seconds: float,
) -> dict[str, Any]:
    states = Counter(row.state for row in rows)
    return {
        "name": sweep.run.name,
        "metric": sweep.search.metric,
        "mode": METRICS[sweep.search.metric].direction,
        "objectives": list(sweep.search.all_objectives),
        "pareto_front": sorted(pareto_front(rows, sweep.search.all_objectives)),
        "num_trials": sweep.search.num_trials,
        "states": {state.value: states[state] for state in State},
        "best": best.model_dump(mode="json") if best else None,
        "best_reloaded": read_receipt(results, best) if best else None,
        "seconds": seconds,
    }
