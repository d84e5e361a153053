"""`python -m raytune_glm.train run.yaml`: train one configuration, as a sweep trains a trial.

Takes a run file, or the flags of a command of the tools that this project replaces (`legacy`),
which become one. Read next: `trials.alone`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.command import add_check, add_overrides, exit_status

if TYPE_CHECKING:
    from rich.console import Console

    from raytune_glm.config import SweepConfig
    from raytune_glm.config.check import Plan
    from raytune_glm.legacy import Translation
    from raytune_glm.trials.records import ResultsFolder, TrialRow

EPILOG = """\
Run the same command again to go on with a run that was interrupted.

The commands of ChatGLM-Finetuning, ChatGLM-Tuning and Alpaca-LoRA work as they are: their flags in
place of the run file become a run file, which is printed, kept beside the results and run.

exit status: 0 trained, 1 failed or interrupted, 2 something in the input is wrong
documentation: docs/sweep_file.md (every setting), docs/data.md (row formats, metrics),
docs/migration.md (old flags)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    return exit_status(
        lambda: _train(_read(sys.argv[1:] if argv is None else argv)),
        interrupted="interrupted: run the same command again to go on",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.train",
        description="Train one configuration with DeepSpeed under Ray Train.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        type=Path,
        help="the run file, YAML; a sweep's best.yaml and a trial's config.yaml are such files",
    )
    add_overrides(parser, examples="method.rank=16 or run.num_workers=4")
    add_check(parser)
    return parser


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the command line asks for."""

    file: Path | None = None
    """The run file; None where an old command stands in its place."""
    old: Translation | None = None
    """The old command, translated."""
    overrides: tuple[str, ...]
    only_check: bool

    def load(self) -> SweepConfig:
        """Read the run file, or the one that the old command became."""
        from raytune_glm.config import load_run, parse_run

        if self.old is not None:
            return parse_run(self.old.text, self.overrides, source="the translated command")
        assert self.file is not None, "there is a run file or an old command"
        return load_run(self.file, self.overrides)


def _read(words: list[str]) -> _Request:
    from raytune_glm.legacy import is_old_command, translate

    if is_old_command(words):
        old = translate(words)
        return _Request(old=old, overrides=old.overrides, only_check=old.only_check)
    found = _parser().parse_intermixed_args(words)
    return _Request(file=found.run, overrides=tuple(found.overrides), only_check=found.check)


def _train(request: _Request) -> int:
    from rich.console import Console

    from raytune_glm.config.check import check_run
    from raytune_glm.report.lengths import measured_lengths
    from raytune_glm.report.plan import describe_run
    from raytune_glm.report.settings import check_settings
    from raytune_glm.trials.records import ResultsFolder

    # Bound to the terminal as it is now: what libraries print while workers run goes to a file.
    console = Console(file=sys.stdout, soft_wrap=True)
    if request.old is not None:
        console.print(request.old.text, highlight=False, markup=False)
    run = request.load()
    plan = check_run(run)
    if run.run.folder.exists():
        check_settings(ResultsFolder(run.run.folder, alone=True), _settings(run))
    console.print(
        describe_run(run, plan, overrides=request.overrides), highlight=False, markup=False
    )
    if request.only_check:
        console.print(measured_lengths(run, plan), highlight=False, markup=False)
        return 0
    return _start(run, plan, console, old=request.old)


def _start(run: SweepConfig, plan: Plan, console: Console, *, old: Translation | None) -> int:
    """Train what is left of the run, write its results; give the exit status."""
    from raytune_glm import files
    from raytune_glm.log import log_to_file
    from raytune_glm.report.origin import write_origin
    from raytune_glm.report.run_outcome import print_run_outcome, read_row
    from raytune_glm.report.settings import write_settings
    from raytune_glm.trials import lock
    from raytune_glm.trials.leftovers import end_leftovers
    from raytune_glm.trials.records import ResultsFolder, State

    results = ResultsFolder(run.run.folder, alone=True)
    with lock.held(results.root):
        end_leftovers(results)
        write_settings(results, _settings(run))
        write_origin(results, run)
        if old is not None:
            files.write_text(results.root / "command.yaml", old.text)
        log_to_file(results.root / "train.log")
        row = read_row(results) or _run(run, plan, results, console)
        print_run_outcome(results, run, row, console)
    return 0 if row.state is State.COMPLETE else 1


def _settings(run: SweepConfig) -> dict[str, Any]:
    """What is written down of a run: of what a sweep searches it knows the metric alone."""
    return {**run.model_dump(mode="json"), "search": {"metric": run.search.metric}}


def _run(run: SweepConfig, plan: Plan, results: ResultsFolder, console: Console) -> TrialRow:
    """Train on Ray and score what was trained."""
    from raytune_glm import ladder
    from raytune_glm.checkpoint import drop_state
    from raytune_glm.config import run_of
    from raytune_glm.config.plan import total_steps
    from raytune_glm.log import printing_to
    from raytune_glm.report.lengths import describe_lengths
    from raytune_glm.report.run_outcome import write_run_outcome
    from raytune_glm.trials.alone import run_alone
    from raytune_glm.trials.cluster import leave
    from raytune_glm.trials.encoding import encode
    from raytune_glm.trials.leftovers import forget
    from raytune_glm.trials.readiness import make_ready
    from raytune_glm.trials.receipt import Finished, take_receipts
    from raytune_glm.trials.records import State
    from raytune_glm.trials.watch import Watch

    ray_log = results.root / "ray.log"
    try:
        placement = make_ready(run, plan, results, console)
        stats = encode(run, results.data)
        console.print(describe_lengths(stats, plan), highlight=False, markup=False)
        last_step = total_steps(run.train, num_rows=stats["train"].rows_kept)
        with printing_to(ray_log), Watch(console, results, total_steps=last_step) as watch:
            row = run_alone(run, results, watch, placement=placement)
        held_out = run.data.dev or run.data.dev_rows or run.data.test
        if row.state is State.COMPLETE and held_out:
            console.print("scoring the saved adapter", highlight=False)
            trained = ladder.applied(run_of(run), results.root)
            with printing_to(ray_log):
                take_receipts(
                    [Finished(run=trained, row=row, results=results)],
                    placement,
                    None,
                    metrics=sorted({run.search.metric, *run.train.metrics}),
                )
    finally:
        leave()
        forget(results)
    write_run_outcome(results, run, row)
    if row.state is State.COMPLETE:
        drop_state(results.root / "checkpoint")
    return row


if __name__ == "__main__":
    sys.exit(main())
