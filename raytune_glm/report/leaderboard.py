"""The leaderboard: a table of the trials from best to worst, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.table import Table

from raytune_glm.report.ranking import ranked
from raytune_glm.trials.progress import short
from raytune_glm.trials.records import TrialRow


def leaderboard(
    rows: Iterable[TrialRow], *, metric: str, mode: Literal["min", "max"]
) -> tuple[list[str], list[list[str]]]:
    """The leaderboard's head and lines, as text.

    Args:
        rows: Finished trials.
        metric: What the sweep optimized; `eval_loss` stands beside it.
        mode: Whether it is better small or large.
    """
    order = ranked(rows, metric=metric, mode=mode)
    paths = list(dict.fromkeys(path for row in order for path in row.params))
    metrics = list(dict.fromkeys([metric, "eval_loss", "train_loss"]))
    names = [path.rsplit(".", 1)[-1] for path in paths]
    heads = [
        name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)
    ]
    lines = [
        [
            str(place),
            row.id,
            row.state.value,
            *(_number(row.metrics["best"].get(name)) for name in metrics),
            *(short(row.params[path]) if path in row.params else "" for path in paths),
            str(row.steps),
            _number(row.seconds, 0),
            _count(row.trainable_parameters),
            _count(row.peak_memory_bytes),
        ]
        for place, row in enumerate(order, start=1)
    ]
    return (
        ["#", "trial", "state", *metrics, *heads, "steps", "seconds", "trainable", "memory"],
        lines,
    )


def to_markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def to_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table for the terminal, the winner in bold."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in head:
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for place, line in enumerate(lines):
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
