"""`python -m raytune_glm.sweep sweeps/lora.yaml`: from a sweep file to a leaderboard.

Reads and checks the file, connects to Ray, runs the trials, writes the results. Absolute imports
throughout: `ray submit` runs a copy of this file on the cluster's head. Read next: `config.tree`.
"""

from __future__ import annotations

import argparse
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm.command import add_check, add_overrides, exit_status

if TYPE_CHECKING:
    from rich.console import Console

    from raytune_glm.config import SweepConfig
    from raytune_glm.config.check import Plan
    from raytune_glm.trials.cluster import Placement
    from raytune_glm.trials.hosts import Hosts
    from raytune_glm.trials.ledger import Ledger
    from raytune_glm.trials.records import ResultsFolder


class Ending(Enum):
    """How the work on the cluster ended."""

    DONE = "done"
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"
    """The same command goes on with it."""


EPILOG = """\
Run the same command again to go on with a sweep that was interrupted.

exit status: 0 there is a winner, 1 no winner or interrupted, 2 something in the input is wrong
documentation: README.md, docs/sweep_file.md (every setting), docs/data.md (row formats, metrics)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return exit_status(
        lambda: _sweep(arguments.sweep, arguments.overrides, only_check=arguments.check),
        interrupted="interrupted: run the same command again to go on",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.sweep",
        description="Search a fine-tuning method's settings, or the method itself, with Ray Tune.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, help="the sweep file, YAML")
    add_overrides(parser, examples="model.path=/models/chatglm3-6b or search.num_trials=20")
    add_check(parser)
    return parser


def _sweep(path: Path, overrides: list[str], *, only_check: bool) -> int:
    from rich.console import Console

    from raytune_glm.config import load_sweep
    from raytune_glm.config.check import check_sweep
    from raytune_glm.report.lengths import measured_lengths
    from raytune_glm.report.plan import describe_plan
    from raytune_glm.report.settings import check_settings, write_settings
    from raytune_glm.trials.records import ResultsFolder

    # Bound to the terminal as it is now: what libraries print while trials run goes to a file.
    console = Console(file=sys.stdout, soft_wrap=True)
    sweep = load_sweep(path, overrides)
    plan = check_sweep(sweep)
    if sweep.run.folder.exists():
        check_settings(ResultsFolder(sweep.run.folder), sweep.model_dump(mode="json"))
    console.print(describe_plan(sweep, plan, overrides=overrides), highlight=False, markup=False)
    if only_check:
        console.print(measured_lengths(sweep, plan), highlight=False, markup=False)
        return 0

    from raytune_glm.log import log_to_file
    from raytune_glm.report.origin import write_origin
    from raytune_glm.trials import lock
    from raytune_glm.trials.leftovers import end_leftovers

    results = ResultsFolder(sweep.run.folder)
    with lock.held(results.root):
        end_leftovers(results)
        write_settings(results, sweep.model_dump(mode="json"))
        write_origin(results, sweep)
        log_to_file(results.root / "sweep.log")
        return 0 if _run(sweep, plan, results, console) else 1


def _run(sweep: SweepConfig, plan: Plan, results: ResultsFolder, console: Console) -> bool:
    """Run what is left of the sweep and write its results; say whether all went as it should."""
    from raytune_glm.metrics import METRICS
    from raytune_glm.report.outcome import is_settled, write_outcome
    from raytune_glm.trials.history import earlier_trials
    from raytune_glm.trials.ledger import Ledger
    from raytune_glm.trials.respace import fit_study
    from raytune_glm.trials.stage import Stage

    started = time.monotonic()
    mode = METRICS[sweep.search.metric].direction
    misfits = fit_study(results, sweep)
    if misfits:
        console.print(f"space      changed: {misfits} trial(s) outside it stay as history")
    ledger = Ledger(results, sweep.search, mode=mode, history=earlier_trials(sweep))
    Stage.SEARCH.enter(results.root)
    ending = Ending.DONE
    if ledger.num_left or not is_settled(results, sweep):
        ending = _run_trials(sweep, plan, results, ledger, console)
    else:
        console.print("nothing is left to do: this sweep is finished", highlight=False)
    seconds = time.monotonic() - started
    has_winner = write_outcome(
        results, sweep, seconds=seconds, console=console, is_over=ending is not Ending.INTERRUPTED
    )
    if ending is Ending.OUT_OF_TIME:
        console.print(f"search.time_budget_s is over; {ledger.num_left} trial(s) were not begun")
    elif ending is Ending.INTERRUPTED:
        console.print("[yellow]interrupted[/yellow]: run the same command again to go on")
        return False
    return has_winner


def _run_trials(
    sweep: SweepConfig, plan: Plan, results: ResultsFolder, ledger: Ledger, console: Console
) -> Ending:
    """Run the trials on Ray and score the winner."""
    from raytune_glm.log import printing_to
    from raytune_glm.report.lengths import describe_lengths
    from raytune_glm.trials.cluster import leave
    from raytune_glm.trials.encoding import encode
    from raytune_glm.trials.hosts import Hosts
    from raytune_glm.trials.leftovers import forget
    from raytune_glm.trials.readiness import make_ready

    hosts = None
    try:
        placement = make_ready(sweep, plan, results, console)
        with printing_to(results.root / "ray.log"):
            if plan.execution != "solo":  # they come up meanwhile
                hosts = Hosts(sweep, results, placement)
                hosts.start()
            stats = encode(sweep, results.data)
            console.print(describe_lengths(stats, plan), highlight=False, markup=False)
            return _search(sweep, plan, results, ledger, console, placement, hosts)
    finally:
        if hosts is not None:
            hosts.close()
        leave()
        forget(results)


def _search(
    sweep: SweepConfig,
    plan: Plan,
    results: ResultsFolder,
    ledger: Ledger,
    console: Console,
    placement: Placement,
    hosts: Hosts | None,
) -> Ending:
    """Run the trials, repeat the best where asked to, score the winner."""
    from raytune_glm.report.settling import Settling
    from raytune_glm.trials.progress import Progress
    from raytune_glm.trials.tuner import run_trials  # Ray Tune, while hosts come up

    if hosts is not None:
        hosts.await_processes()
    out_of_time = False
    if ledger.num_left:
        progress = Progress(console, sweep.search, mode=ledger.mode, rows=ledger.rows.values())
        with progress:
            out_of_time = run_trials(
                sweep,
                results,
                ledger,
                progress,
                max_steps=plan.max_steps,
                placement=placement,
                hosts=hosts,
            )
    if not out_of_time and (ledger.num_left or ledger.live):
        return Ending.INTERRUPTED
    settling = Settling(sweep, results, placement, hosts, console)
    try:
        if not out_of_time and not settling.confirm(max_steps=plan.max_steps):
            return Ending.INTERRUPTED
        settling.score_winner()
    except KeyboardInterrupt:
        return Ending.INTERRUPTED
    return Ending.OUT_OF_TIME if out_of_time else Ending.DONE


if __name__ == "__main__":
    sys.exit(main())
