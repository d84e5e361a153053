"""Which trial is better than which."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_glm.metrics import Metric, preference
from raytune_glm.search.quantities import QUANTITIES, dominates
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


def objectives_of(row: TrialRow, names: tuple[str, ...]) -> tuple[float, ...] | None:
    """A trial's values of some objectives, keys of `QUANTITIES`; None where one is missing."""
    values = [
        getattr(row, name) if QUANTITIES[name].is_cost else row.metrics["best"].get(name)
        for name in names
    ]
    measured = tuple(float(value) for value in values if value is not None)
    return measured if len(measured) == len(names) else None


def pareto_front(rows: Iterable[TrialRow], names: tuple[str, ...]) -> set[int]:
    """Numbers of the complete trials that no other one betters in every objective.

    Trials that were stopped are left out: what they would have cost, nobody knows.
    """
    complete = {
        row.number: values
        for row in rows
        if row.state is State.COMPLETE and (values := objectives_of(row, names)) is not None
    }
    return {
        number
        for number, values in complete.items()
        if not any(dominates(other, values, names) for other in complete.values())
    }
