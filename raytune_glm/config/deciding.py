"""When schedulers and budgets decide over a trial must be when it reports."""

from __future__ import annotations

import math
from collections.abc import Iterator

from raytune_glm.config.plan import total_steps
from raytune_glm.config.tree import RunConfig
from raytune_glm.errors import ConfigError, shown
from raytune_glm.search import SearchSettings


def check_decisions(run: RunConfig, search: SearchSettings, num_rows: int | None) -> None:
    """Refuse a scheduler or a budget that would decide when a trial has nothing to report.

    Args:
        run: A trial.
        search: Says who decides.
        num_rows: Its training rows; none: nobody has counted them.

    Raises:
        ConfigError: Somebody would.
    """
    faults = [*_first_decision(run, search, num_rows), *_later_decisions(run, search)]
    if faults:
        raise ConfigError("\n".join(faults))


def _first_decision(run: RunConfig, search: SearchSettings, num_rows: int | None) -> Iterator[str]:
    """Who decides at a trial's reports has no effect where the first one is at its end."""
    if search.scheduler.stops:
        who = f"search.scheduler {search.scheduler.name}"
    elif search.budget.per_trial is not None:
        who = "search.budget.per_trial"
    else:
        return
    if num_rows is None and run.train.max_steps is None:
        yield (
            f"train.max_steps must be given for {who} where rows come from the hub, since nobody "
            f"has counted them yet, but got epochs={run.train.epochs}"
        )
        return
    grace = search.scheduler.needs_reports_before() or 1
    every = run.train.eval_every_steps
    last = total_steps(run.train, num_rows=num_rows or 0)
    if every is None or math.ceil(grace / every) * every >= last:
        given = f" and {search.scheduler.period}" if grace > 1 else ""
        yield (
            f"{who} must see a report before a trial's last step, but got "
            f"train.eval_every_steps={shown(every)}{given} in trials of {last} steps: evaluate "
            "more often, decide earlier, or leave it out"
        )


def _later_decisions(run: RunConfig, search: SearchSettings) -> Iterator[str]:
    """Between evaluations there is nothing to decide by."""
    interval, every = search.scheduler.needs_report_every(), run.train.eval_every_steps
    if interval is None or every is None or interval % every == 0:
        return
    yield (
        f"search.scheduler {search.scheduler.name} must decide where trials are evaluated, but got "
        f"{search.scheduler.period} with train.eval_every_steps={every}: write a multiple of "
        f"{every}, {math.ceil(interval / every) * every} say, or evaluate more often"
    )
