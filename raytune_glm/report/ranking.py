"""Which trial is better than which."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from raytune_glm.trials.records import State, TrialRow


def ranked(rows: Iterable[TrialRow], *, metric: str, mode: Literal["min", "max"]) -> list[TrialRow]:
    """Order trials from best to worst by their best value of the metric.

    Stopped trials count with what they reached, behind a complete trial of the same value; those
    that never came to an evaluation are last.
    """
    sign = -1 if mode == "max" else 1

    def key(row: TrialRow) -> tuple[bool, float, bool, int]:
        value = row.metrics["best"].get(metric)
        return (
            value is None,
            0.0 if value is None else sign * value,
            row.state is not State.COMPLETE,
            row.number,
        )

    return sorted(rows, key=key)


def winner(
    rows: Iterable[TrialRow], *, metric: str, mode: Literal["min", "max"]
) -> TrialRow | None:
    """The best trial that has an adapter to show: one that came to an evaluation and did not fail."""
    sound = (row for row in rows if row.state in (State.COMPLETE, State.PRUNED))
    best = ranked(sound, metric=metric, mode=mode)[:1]
    return best[0] if best and metric in best[0].metrics["best"] else None
