"""The end of a sweep: leaderboard, summary and winner, on disk and on the terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.config import SweepConfig, run_of, trial_run
from raytune_glm.metrics import METRICS
from raytune_glm.report.confirmation import Confirmation, read_confirmation
from raytune_glm.report.leaderboard import confirmed_table, leaderboard, to_markdown, to_table
from raytune_glm.report.ranking import SOUND, pareto_front, ranked, winner
from raytune_glm.report.variants import variants_table
from raytune_glm.report.winner import write_winner
from raytune_glm.search.storage import JOURNAL
from raytune_glm.trials.confirm import Repeats
from raytune_glm.trials.receipt import Finished, Scores, read_receipt
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

if TYPE_CHECKING:
    from rich.console import Console


def winner_of(results: ResultsFolder, sweep: SweepConfig) -> TrialRow | None:
    """The trial that wins: the best one that was confirmed, else the best one; or none."""
    rows = results.rows()
    confirmation = _confirmation(results, sweep)
    if confirmation is not None and confirmation.winner is not None:
        [row] = [row for row in rows if row.number == confirmation.winner]
        return row
    return winner(rows, METRICS[sweep.search.metric])


def repeats_of(results: ResultsFolder, sweep: SweepConfig) -> Repeats | None:
    """The repeats that are to confirm the best trials; None where there is nothing to repeat."""
    sound = [row for row in results.rows() if row.state in SOUND and row.metrics["best"]]
    if sweep.search.confirm is None or not sound:
        return None
    best = ranked(sound, METRICS[sweep.search.metric])
    return Repeats.of(sweep, results, best, sweep.search.confirm)


def is_confirmed(results: ResultsFolder, sweep: SweepConfig) -> bool:
    """Whether what was confirmed, if anything was to be, is what is the best now."""
    repeats = repeats_of(results, sweep)
    if repeats is None:
        return True
    confirmation = read_confirmation(results)
    return confirmation is not None and results.root / confirmation.repeats == repeats.folder


def _confirmation(results: ResultsFolder, sweep: SweepConfig) -> Confirmation | None:
    """What was confirmed, where it is what the sweep asks for now."""
    if sweep.search.confirm is None or not is_confirmed(results, sweep):
        return None
    return read_confirmation(results)


def is_settled(results: ResultsFolder, sweep: SweepConfig) -> bool:
    """Whether the winner of what is finished is confirmed and has its receipt."""
    best = winner_of(results, sweep)
    if best is None:
        return True
    return is_confirmed(results, sweep) and read_receipt(results, best) is not None


def finished(results: ResultsFolder, sweep: SweepConfig, row: TrialRow) -> Finished:
    """A trial of the sweep with the run that it trained."""
    run = trial_run(run_of(sweep), {**row.params, **row.ladder})
    return Finished(run=run, row=row, results=results)


def write_outcome(
    results: ResultsFolder,
    sweep: SweepConfig,
    *,
    seconds: float,
    console: Console,
    is_over: bool = True,
) -> bool:
    """Write what the finished trials amount to, and print it.

    Args:
        results: The sweep's folder.
        sweep: The sweep.
        seconds: How long this run of the command took.
        console: Where to print.
        is_over: Whether nothing is left to do: else the best trial is the best so far.

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
    best = winner_of(results, sweep)
    confirmation = _confirmation(results, sweep)
    if confirmation is not None:
        confirmed = to_markdown(*confirmed_table(confirmation))
        text += f"\n## Repeated under new seeds\n\n{confirmed}\n{confirmation.verdict()}.\n"
    files.write_text(results.root / "leaderboard.md", text)
    files.write_json(
        results.root / "summary.json",
        {
            **_summary(sweep, results, rows, best, seconds=seconds),
            "confirmation": _told(confirmation),
        },
    )
    if rows:
        console.print()
        console.print(to_table(head, lines, width=console.width))
        console.print()
    if rows and by_variant is not None:
        console.print(to_table(*by_variant, width=console.width))
        console.print()
    if best is None:
        if rows or is_over:
            _print_why_none(rows, results, console)
        else:
            console.print("no trial has ended yet")
        return False
    folder = write_winner(results, sweep, best)
    receipt = read_receipt(results, best) or {}
    scores = {"dev": best.metrics["best"], **{k: v for k, v in receipt.items() if k != "dev"}}
    told = ", ".join(
        f"{metric.name}={s[metric.name]:.4f} on {split}" for split, s in scores.items()
    )
    warn_of_other_loss(best, receipt, sweep, console)
    if confirmation is not None:
        if confirmation.trials:
            console.print(to_table(*confirmed_table(confirmation), width=console.width))
        console.print(f"\nconfirmed   {confirmation.verdict()}", highlight=False, markup=False)
    for name, text in {
        "winner" if is_over else "best so far": f"trial {best.number}, {told}",
        "adapter": f"{folder}  ({_format(folder)})",
        "again": f"python -m raytune_glm.train {results.root / 'best.yaml'}",
        "results": f"{results.root}  (leaderboard.md, summary.json, trials.jsonl{_study(sweep)})",
    }.items():
        console.print(f"{name:<11} {text}", highlight=False, markup=False)
    return True


def _print_why_none(rows: list[TrialRow], results: ResultsFolder, console: Console) -> None:
    beyond = [row for row in rows if row.state is State.INFEASIBLE and row.metrics["best"]]
    if beyond and len(beyond) == len(rows):
        why = "every trial is beyond one of search.limits, the last one since its"
        console.print(
            f"there is no winner: {why} {beyond[-1].error}: raise that limit, or search where it "
            "is kept",
            style="red",
            highlight=False,
        )
        return
    console.print("no finished trial came to an evaluation: there is no winner", style="red")
    console.print(f"logs        {results.root}/trials/*/worker.log", highlight=False)


def _told(confirmation: Confirmation | None) -> dict[str, Any] | None:
    if confirmation is None:
        return None
    told = confirmation.model_dump(mode="json")
    return {**told, "is_better": confirmation.is_better, "verdict": confirmation.verdict()}


TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
"""How far a reloaded adapter's loss may be from the leaderboard's: what rounding explains."""


def warn_of_other_loss(
    best: TrialRow, receipt: Scores, sweep: SweepConfig, console: Console
) -> None:
    """Tell where a reloaded adapter gives another loss than its trial reported."""
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


def _study(sweep: SweepConfig) -> str:
    """The study among the files of the results folder, where it is one."""
    names = {None: ", study.db", JOURNAL: ", study.journal"}
    return names.get(sweep.search.storage, "")


def _format(adapter: Path) -> str:
    """What reads the files of a trained folder."""
    if (adapter / "adapter_config.json").exists():
        return "PEFT's format"
    return "weights.safetensors, under the names of the model's own tensors"
