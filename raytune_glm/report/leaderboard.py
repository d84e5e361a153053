"""The leaderboard: a table of the trials from best to worst, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from raytune_glm.metrics import METRICS, Metric
from raytune_glm.report.confirmation import Confirmation
from raytune_glm.report.ranking import pareto_front, ranked
from raytune_glm.report.statistics import Estimate
from raytune_glm.search.quantities import FORGETTING, SCORES
from raytune_glm.trials.progress import format_params, short
from raytune_glm.trials.records import TrialRow


def leaderboard(
    rows: Iterable[TrialRow], metric: Metric, objectives: tuple[str, ...] = ()
) -> tuple[list[str], list[list[str]]]:
    """The leaderboard's head and lines, as text.

    Args:
        rows: Finished trials.
        metric: What the sweep optimized; `eval_loss` stands beside it.
        objectives: What was traded against it; a star then marks the Pareto front.
    """
    order = ranked(rows, metric)
    paths = list(dict.fromkeys(path for row in order for path in row.params))
    told = {name for row in order for name in row.metrics["best"]}
    further = [name for name in SCORES if name in objectives or name == FORGETTING]
    metrics = list(
        dict.fromkeys([metric.name, "eval_loss", *(name for name in further if name in told)])
    )
    names = [path.rsplit(".", 1)[-1] for path in paths]
    heads = [
        name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)
    ]
    lines = [
        [
            str(place),
            row.id,
            # A trial whose patience was over is complete, and shorter than the others.
            row.state.value + (" early" if row.note else ""),
            *(_number(row.metrics["best"].get(name)) for name in metrics),
            *(short(row.params[path]) if path in row.params else "" for path in paths),
            str(row.steps),
            _number(row.seconds, 0),
            _count(row.trainable_parameters),
            _count(row.peak_memory_bytes),
        ]
        for place, row in enumerate(order, start=1)
    ]
    head = ["#", "trial", "state", *metrics, *heads, "steps", "seconds", "trainable", "memory"]
    if objectives:
        front = pareto_front(order, (metric.name, *objectives))
        head.insert(3, FRONT)
        for line, row in zip(lines, order, strict=True):
            line.insert(3, "*" if row.number in front else "")
    if any(row.ladder for row in order):
        head.append(RUNG)
        lines = [[*line, format_params(r.ladder)] for line, r in zip(lines, order, strict=True)]
    return head, lines


FRONT = "front"
"""Column that marks the Pareto front, where there is more than one objective."""
RUNG = "for want of memory"
"""Column of what the out-of-memory ladder changed, where it changed anything."""


def confirmed_table(confirmation: Confirmation) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of repeated trials: means, with their intervals at 95 %."""
    metric = METRICS[confirmation.metric]
    lines = [
        [
            str(place),
            f"{trial.number:04d}",
            str(trial.seeds),
            _interval(trial.dev, metric),
            _interval(trial.test, metric),
        ]
        for place, trial in enumerate(confirmation.trials, start=1)
    ]
    return ["#", "trial", "seeds", f"{metric.name} on dev", f"{metric.name} on test"], lines


def _interval(estimate: Estimate | None, metric: Metric) -> str:
    if estimate is None:
        return ""
    possible = estimate.within(metric.worst, metric.ideal)
    return f"{estimate.value:.4f} ({possible.low:.4f} to {possible.high:.4f})"


def to_markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


DROPPED_FIRST = (RUNG, "memory", "trainable", "seconds", "eval_loss", "steps", "trial")
"""Columns that a narrow terminal does without, in this order; the Markdown file has them all."""


def to_table(head: Sequence[str], lines: Sequence[Sequence[str]], *, width: int) -> Table:
    """A table for a terminal of `width` columns, the winner in bold."""
    columns = dict(zip(head, zip(*lines, strict=True), strict=True))
    for name in DROPPED_FIRST:
        if sum(2 + max(map(len, (head, *cells))) for head, cells in columns.items()) > width:
            columns.pop(name, None)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for place, line in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*line, style="bold" if place == 0 else None)
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    """A count with a decimal suffix: 3.67M."""
    if value is None:
        return ""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return str(value)
