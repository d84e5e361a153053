"""Gaussian process regression of scores on settings and on how far a trial came.

The covariance of two scores is a Matern 5/2 kernel of the settings times `end + early * left *
left'`: what a trial scores early says something about its end, and less the more of it is left
(the linear multi-fidelity kernel, as in Wu et al. 2019, arXiv 1903.04703). Each axis has a length
of its own, with the prior of Hvarfner et al. (2024, arXiv 2402.02229), which grows with the number
of axes, so that those without influence are found to have none. Read next: `forecast`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = np.ndarray[Any, np.dtype[np.float64]]

NUGGET = 1e-6
"""Least variance of the noise: keeps matrices positive definite."""
CONSTANT = 1.0
"""Prior variance of the mean."""
MOST_ITERATIONS = 15
"""Of a fit, which goes on from the one before."""


@dataclass(frozen=True)
class Scores:
    """What is known of some points."""

    points: Array
    """(n, features): see `Cube.features`."""
    left: Array
    """(n,): how far from the end each was, from 0 at the end to 1."""
    values: Array
    """(n,): about mean 0 and variance 1."""


class Regression:
    """Kernel parameters, and the scores that predictions are made from."""

    def __init__(self, groups: np.ndarray[Any, Any]) -> None:
        """Take the axis of each feature; features of one axis share a length."""
        self._groups = groups
        self._num_axes = num = int(groups.max()) + 1
        # Logarithms of: 1 / length of each axis; variances at the end, of what is left, of noise.
        lengths = math.sqrt(2) + math.log(num) / 2
        self._prior_mean = np.array([-lengths] * num + [0.0, -1.0, -4.0])
        self._prior_deviation = np.array([math.sqrt(3)] * num + [1.0, 1.5, 1.0])
        self._bounds = [(-6.0, 4.0)] * num + [(-5.0, 4.0), (-8.0, 4.0), (-10.0, 1.0)]
        self._begin = self._prior_mean.copy()
        self._begin[:num] = math.log(2) - math.log(num / 3 + 1) / 2
        self._logs = self._begin

    def fit(self, scores: Scores) -> None:
        """Move the parameters to where they are most probable given some scores."""
        points, values, num = scores.points, scores.values, self._num_axes
        squares = np.zeros((num, len(points), len(points)))
        for axis, column in zip(self._groups, points.T, strict=True):
            squares[axis] += (column[:, None] - column) ** 2
        early = np.outer(scores.left, scores.left)
        identity = np.eye(len(points))

        def loss(logs: Array) -> tuple[float, Array]:
            """The negative log posterior and its gradient."""
            weights, (end, of_left, noise) = np.exp(2 * logs[:num]), np.exp(logs[num:])
            roots = np.sqrt(5 * np.tensordot(weights, squares, 1))
            decay = np.exp(-roots)
            matern = (1 + roots + roots**2 / 3) * decay
            scale = end + of_left * early
            try:
                lower = cholesky(
                    matern * scale + CONSTANT + (noise + NUGGET) * identity, lower=True
                )
            except LinAlgError:
                return 1e25, np.zeros_like(logs)
            inverse = cho_solve((lower, True), identity)
            solved = inverse @ values
            change = (inverse - np.outer(solved, solved)) / 2
            in_matern = change * matern
            gradient = np.empty_like(logs)
            # d matern / d squared distance = -5/6 (1 + root) exp(-root)
            in_squares = change * scale * (-5 / 6 * (1 + roots) * decay)
            gradient[:num] = 2 * weights * np.tensordot(squares, in_squares, 2)
            gradient[num] = end * in_matern.sum()
            gradient[num + 1] = of_left * (in_matern * early).sum()
            gradient[num + 2] = noise * np.trace(change)
            off = (logs - self._prior_mean) / self._prior_deviation
            fault = values @ solved / 2 + np.log(np.diag(lower)).sum() + off @ off / 2
            return float(fault), gradient + off / self._prior_deviation

        tries = [
            minimize(
                loss,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=self._bounds,
                options={"maxiter": MOST_ITERATIONS},
            )
            # From where they began too: a few scores may have been taken for noise.
            for start in (self._logs, self._begin)
        ]
        self._logs = min(tries, key=lambda found: float(found.fun)).x

    def learn(self, scores: Scores) -> None:
        """Predict from these scores from now on, under the parameters as they are."""
        self._seen = scores
        covariance = self._covariance(scores.points, scores.left)
        covariance[np.diag_indices_from(covariance)] += np.exp(self._logs[-1]) + NUGGET
        self._lower = cholesky(covariance, lower=True)
        self._solved = cho_solve((self._lower, True), scores.values)

    def believe(self, points: Array) -> None:
        """Take for granted that points end as predicted.

        So that trials proposed while others run go elsewhere (the kriging believer, Ginsbourger et
        al. 2010).
        """
        ends, _ = self.ends(points)
        seen = self._seen
        self.learn(
            Scores(
                np.vstack([seen.points, points]),
                np.concatenate([seen.left, np.zeros(len(points))]),
                np.concatenate([seen.values, ends]),
            )
        )

    def ends(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the scores that points have at their end."""
        across = self._covariance(points, np.zeros(len(points)))
        explained = solve_triangular(self._lower, across.T, lower=True)
        variance = np.exp(self._logs[self._num_axes]) + CONSTANT - (explained**2).sum(0)
        return across @ self._solved, np.sqrt(np.maximum(variance, 1e-9))

    def _covariance(self, points: Array, left: Array) -> Array:
        end, early, _ = np.exp(self._logs[self._num_axes :])
        weights = np.exp(self._logs[self._groups])
        ours, seen = points * weights, self._seen.points * weights
        squares = (ours**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * ours @ seen.T
        roots = np.sqrt(5 * np.maximum(squares, 0))
        matern = (1 + roots + roots**2 / 3) * np.exp(-roots)
        covariance: Array = matern * (end + early * np.outer(left, self._seen.left)) + CONSTANT
        return covariance
