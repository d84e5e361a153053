"""A start that trials without room do not end.

Optuna's TPE begins to learn after so many finished trials, whatever they came to. Where the first
ones are all infeasible, and infeasible ones are quick, it then takes the least bad of them for its
model of what is good, and proposes more of their kind.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class FeasibleStart(BaseSampler):
    """Lets one sampler propose until enough trials were feasible, then another."""

    def __init__(self, first: BaseSampler, then: BaseSampler, *, num_feasible: int) -> None:
        """Propose by `first` until `num_feasible` finished trials broke no constraint."""
        self._first = first
        self._then = then
        self._num_feasible = num_feasible
        self._is_over = False

    def _now(self, study: Study) -> BaseSampler:
        if not self._is_over:
            trials = study.get_trials(deepcopy=False, states=FINISHED)
            feasible = [t for t in trials if all(value <= 0 for value in t.constraints.values())]
            self._is_over = len(feasible) >= self._num_feasible
        return self._then if self._is_over else self._first

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Ask the sampler whose turn it is."""
        return self._now(study).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the sampler whose turn it is."""
        return self._now(study).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the sampler whose turn it is."""
        return self._now(study).sample_independent(study, trial, param_name, param_distribution)
