"""A grid over a space with conditions, which Optuna's own grid sampler cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial


class GridSampler(BaseSampler):
    """Gives trial number n the n-th of a list of points: nothing to remember over a resume."""

    def __init__(self, points: Sequence[dict[str, Any]]) -> None:
        """Propose `points`, each the names and values that a study stores."""
        self._points = points

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly: each value is looked up."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing; see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Look a value of the trial's point up."""
        return self._points[trial.number % len(self._points)][param_name]
