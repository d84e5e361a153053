"""Which trial is better than which."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_glm.metrics import Metric, preference
from raytune_glm.trials.records import State, TrialRow


def ranked(rows: Iterable[TrialRow], metric: Metric) -> list[TrialRow]:
    """Order trials from best to worst by their best evaluation.

    Stopped trials count with what they reached; those that never came to an evaluation are last.
    """

    def key(row: TrialRow) -> tuple[bool, tuple[float, float], int]:
        best = row.metrics["best"]
        value, loss = preference(best, metric) if best else (0.0, 0.0)
        return (not best, (-value, -loss), row.number)

    return sorted(rows, key=key)


def winner(rows: Iterable[TrialRow], metric: Metric) -> TrialRow | None:
    """The best trial that came to an evaluation and did not fail; none where there is none."""
    sound = [
        row for row in rows if row.state in (State.COMPLETE, State.PRUNED) and row.metrics["best"]
    ]
    return ranked(sound, metric)[0] if sound else None
