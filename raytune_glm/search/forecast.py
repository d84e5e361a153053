"""A sampler that forecasts how trials end, from the curves of all: finished, stopped and running.

Under a scheduler few trials come to their end, and a sampler that ranks complete ones first learns
from those few, while one that takes each trial's last score for its worth confuses young trials
with bad ones. Here a Gaussian process over settings and learning curves (`regression`, `observed`)
says of each point how it would end, and how sure that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr

from raytune_glm import space as spaces
from raytune_glm.search.cube import Array, Cube
from raytune_glm.search.feasible import is_beyond
from raytune_glm.search.observed import is_scored, observe
from raytune_glm.search.regression import Regression, Scores
from raytune_glm.search.view import SEEN

MOST_TRIALS = 300
"""Trials after which the other sampler proposes, which costs less a trial and has enough to see."""
GROWTH = 1.1
"""A regression is fitted anew when there are this many times the reports of its last fit."""
NUM_DRAWN, NUM_NEAR, NUM_BEST = 400, 40, 5
"""Points looked at: so many drawn evenly, and so many neighbours of each of the best trials."""
WIDTHS = (0.1, 0.05, 0.025, 0.01)
"""Of the range: how far from the best points so far the next ones are looked for, in turn."""
UNSURE = 0.05
"""Variance of a limit's edge: a point beside one that had no room is not certain to have none."""

FAR = 10.0
"""Deviations of the scores: a point that is rather beyond a limit than not is worth that much less,
so that it is proposed only where all are."""


class ForecastSampler(BaseSampler):
    """Proposes the point whose forecast is best; lets another sampler begin, and end."""

    def __init__(
        self,
        space: spaces.Space,
        *,
        start: BaseSampler,
        other: BaseSampler,
        num_startup_trials: int,
        random_share: float,
        seed: int,
    ) -> None:
        """Model `space`.

        Args:
            space: What is searched, without `one_of`.
            start: Proposes until `num_startup_trials` trials within all limits have reported, and
                a share of the trials after that.
            other: Proposes for several objectives, and after `MOST_TRIALS` trials.
            num_startup_trials: See `start`.
            random_share: Of the trials after the start, how many `start` proposes still.
            seed: Of the points looked at.
        """
        self._cube = Cube(space)
        self._start, self._other = start, other
        self._num_startup_trials = num_startup_trials
        self._random_share = random_share
        self._rng = np.random.default_rng(seed)
        self._scores, self._limits = (Regression(self._cube.groups) for _ in range(2))
        self._fitted = {self._scores: 0.0, self._limits: 0.0}
        self._now: BaseSampler | None = start

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Decide who proposes."""
        self._now = self._turn(study)
        if self._now is not None:
            return self._now.infer_relative_search_space(study, trial)
        return {axis.name: axis.distribution for axis in self._cube.axes}

    def _turn(self, study: Study) -> BaseSampler | None:
        """Another sampler whose turn it is, if any."""
        trials = study._get_trials(deepcopy=False, states=SEEN)
        if len(study.directions) > 1 or len(trials) > MOST_TRIALS or not self._cube.axes:
            return self._other
        known = sum(is_scored(trial) and not is_beyond(trial) for trial in trials)
        is_start = known < self._num_startup_trials or self._rng.random() < self._random_share
        return self._start if is_start else None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the best point, what is fixed of the trial left as it is."""
        if self._now is not None:
            return self._now.sample_relative(study, trial, search_space)
        seen = study._get_trials(deepcopy=False, states=SEEN)
        rows = [self._cube.row(other.params) for other in seen]
        pairs = [
            (other, row)
            for other, row in zip(seen, rows, strict=True)
            if row is not None and other.number != trial.number
        ]
        trials, places = [pair[0] for pair in pairs], np.array([pair[1] for pair in pairs])
        sign = 1 if study.direction is StudyDirection.MINIMIZE else -1
        return self._cube.values(
            self._best(trials, places, sign, trial.system_attrs.get("fixed_params", {}))
        )

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the other sampler whose turn it is."""
        sampler = self._now or self._start
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _best(
        self, trials: Sequence[FrozenTrial], rows: Array, sign: int, fixed: dict[str, Any]
    ) -> Array:
        """The point of the lowest confidence bound, among those that probably keep to the limits.

        How far below its mean a point is hoped to end is drawn for each proposal (Hutter et al.
        2012, "Parallel algorithm configuration"), so that trials side by side are not all bold.
        """
        beyond = np.array([is_beyond(trial) for trial in trials])
        is_running = np.array([trial.state is TrialState.RUNNING for trial in trials])
        points = self._cube.features(rows)
        self._learn_scores([t for t in trials if not is_beyond(t)], points[~beyond], sign)
        ends, _ = self._scores.ends(points)
        best = rows[np.argsort(np.where(beyond, np.inf, ends))[:NUM_BEST]]
        if is_running.any():
            self._scores.believe(points[is_running])
        if beyond.any():
            known = ~is_running | beyond
            told = np.where(beyond[known], 1.0, -1.0)
            self._learn(self._limits, Scores(points[known], np.zeros(len(told)), told), len(told))
        hope = self._rng.exponential()

        def worth(rows: Array) -> Array:
            points = self._cube.features(rows)
            mean, deviation = self._scores.ends(points)
            bound = hope * deviation - mean
            if not beyond.any():
                return bound
            excess, unsure = self._limits.ends(points)
            inside: Array = log_ndtr(-excess / np.sqrt(unsure**2 + UNSURE))
            return bound + inside - FAR * (excess > 0)

        return self._search(worth, best, fixed)

    def _learn_scores(self, trials: Sequence[FrozenTrial], points: Array, sign: int) -> None:
        known = observe(trials, sign)
        num_reports = sum(len(trial.intermediate_values) for trial in trials)
        scores = Scores(points[known.trials], known.left, known.values)
        self._learn(self._scores, scores, num_reports)

    def _learn(self, regression: Regression, scores: Scores, amount: int) -> None:
        if amount >= GROWTH * self._fitted[regression]:
            regression.fit(scores)
            self._fitted[regression] = amount
        regression.learn(scores)

    def _search(self, worth: Any, best: Array, fixed: dict[str, Any]) -> Array:
        cube, rng = self._cube, self._rng
        around = [cube.near(best, NUM_NEAR, width, rng) for width in (0.15, 0.04)]
        rows = cube.settle(np.vstack([cube.draw(NUM_DRAWN, rng), *around]), fixed)
        worths = worth(rows)
        for width in WIDTHS:
            top = np.argsort(-worths)[: NUM_BEST + 1]
            near = cube.settle(cube.near(rows[top], NUM_NEAR // 2, width, rng), fixed)
            rows, worths = (
                np.vstack([rows[top], near]),
                np.concatenate([worths[top], worth(near)]),
            )
        chosen: Array = rows[np.argmax(worths)]
        return chosen
