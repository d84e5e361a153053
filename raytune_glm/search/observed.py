"""What trials scored on their way, made comparable: learning curves as a regression takes them.

A trial is worth its best report so far, as the adapter of its best evaluation is kept. Of each
trial the reports at shares of the longest trial's steps count, and its last one. What trials of all
kinds gain from one share to the next is taken off, so that a trial stopped early is not bad merely
for being young.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from raytune_glm.search.regression import Array

RATIO, NUM_LEVELS = 3.0, 4
"""Reports are compared at the end and at a third, a ninth and a 27th of the longest trial."""
MOST_SCORES = 400
"""Scores that a regression learns from; its time grows with their third power."""
MOST_BEHIND = 2.0
"""A score further behind the median than this times the best one's lead over it counts as that far
behind: of a diverged trial it does not matter how bad it is."""


@dataclass(frozen=True)
class Observed:
    """Scores of trials, less being better."""

    trials: np.ndarray[Any, np.dtype[np.int64]]
    """(n,): index of the trial that each is of."""
    left: Array
    """(n,): how far from the end each was, from 0 at the end to 1."""
    values: Array
    """(n,): about mean 0 and variance 1, what trials gain on their way taken off."""


def is_scored(trial: FrozenTrial) -> bool:
    """Whether a trial has a finite score to learn from."""
    return any(map(math.isfinite, _reports(trial).values()))


def observe(trials: Sequence[FrozenTrial], sign: int) -> Observed:
    """Make the reports of trials comparable.

    Args:
        trials: At least one `is_scored`.
        sign: 1 where less is better, -1 where more is.
    """
    curves = [_best_so_far(trial, sign) for trial in trials]
    longest = max(max(curve) for curve in curves if curve)
    levels = [longest / RATIO**power for power in reversed(range(NUM_LEVELS))]
    found = []
    for index, (trial, curve) in enumerate(zip(trials, curves, strict=True)):
        last = max(curve, default=0)
        for step in sorted({_until(level, curve) for level in levels} | {last}):
            if step in curve:
                is_end = step == last and trial.state is TrialState.COMPLETE
                left = 0.0 if is_end else _left(step, longest)
                found.append((step == last, index, left, curve[step]))
    found = sorted(found, key=lambda score: score[:2])[-MOST_SCORES:]
    indices, lefts, values = (np.array([score[place] for score in found]) for place in (1, 2, 3))
    return Observed(indices, lefts, _scaled(values - _gains(curves, levels, lefts)))


def _best_so_far(trial: FrozenTrial, sign: int) -> dict[int, float]:
    """Step -> the best report up to it; a complete trial without reports has one at step 1."""
    reports = {step: value for step, value in _reports(trial).items() if math.isfinite(value)}
    best, curve = math.inf, {}
    for step, value in sorted(reports.items()):
        best = min(best, sign * value)
        curve[step] = best
    return curve


def _reports(trial: FrozenTrial) -> dict[int, float]:
    if trial.state is TrialState.COMPLETE and not trial.intermediate_values:
        return {1: trial.values[0]}
    return {step: value for step, value in trial.intermediate_values.items() if step > 0}


def _until(level: float, curve: dict[int, float]) -> int:
    """The last step up to a level, a hair above it included; 0: none."""
    return max((step for step in curve if step <= level * 1.0001), default=0)


def _left(step: float, longest: float) -> float:
    return min(1.0, math.log(longest / step, RATIO) / (NUM_LEVELS - 1))


def _gains(curves: list[dict[int, float]], levels: list[float], left: Array) -> Array:
    """What a trial is expected to gain until its end.

    Between two levels, that is the median of what those trials gained that came to both.
    """
    to_gain = [0.0]
    for lower, upper in reversed(list(itertools.pairwise(levels))):
        gained = [
            curve[_until(lower, curve)] - curve[_until(upper, curve)]
            for curve in curves
            if max(curve, default=0) >= upper * 0.9999 and _until(lower, curve)
        ]
        to_gain.append(to_gain[-1] + (float(np.median(gained)) if gained else 0.0))
    gains: Array = np.interp(left, np.linspace(0, 1, NUM_LEVELS), to_gain)
    return gains


def _scaled(values: Array) -> Array:
    median = np.median(values)
    cut = np.minimum(values, median + MOST_BEHIND * (median - values.min()))
    scaled: Array = (cut - cut.mean()) / (cut.std() or 1.0)
    return scaled
