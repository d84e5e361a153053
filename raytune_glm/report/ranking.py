"""Which trial is better than which."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_glm.metrics import Metric, preference
from raytune_glm.trials.records import State, TrialRow

SOUND = (State.COMPLETE, State.PRUNED)
"""Ends of a trial that may win."""


def ranked(rows: Iterable[TrialRow], metric: Metric) -> list[TrialRow]:
    """Order trials from best to worst by their best evaluation.

    Stopped trials count with what they reached. Behind them are those that failed or did not fit,
    and last those that never came to an evaluation.
    """

    def key(row: TrialRow) -> tuple[bool, bool, tuple[float, float], int]:
        best = row.metrics["best"]
        value, loss = preference(best, metric) if best else (0.0, 0.0)
        return (not best, row.state not in SOUND, (-value, -loss), row.number)

    return sorted(rows, key=key)


def winner(rows: Iterable[TrialRow], metric: Metric) -> TrialRow | None:
    """The best trial that came to an evaluation and did not fail; none where there is none."""
    sound = [row for row in rows if row.state in SOUND and row.metrics["best"]]
    return ranked(sound, metric)[0] if sound else None
