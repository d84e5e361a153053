"""A start that trials without room do not end.

Optuna's TPE begins to learn after so many finished trials, whatever they came to. Where the first
ones are all infeasible, and infeasible ones are quick, it then takes the least bad of them for its
model of what is good, and proposes more of their kind.
"""

from __future__ import annotations

from optuna import Study
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from raytune_glm.search.view import Relay

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def is_beyond(trial: FrozenTrial) -> bool:
    """Whether a trial was beyond memory or another limit."""
    return any(value > 0 for value in trial.constraints.values())


class FeasibleStart(Relay):
    """Lets one sampler propose until enough trials were feasible, then another."""

    def __init__(self, first: BaseSampler, then: BaseSampler, *, num_feasible: int) -> None:
        """Propose by `first` until `num_feasible` finished trials broke no constraint."""
        self._first = first
        self._then = then
        self._num_feasible = num_feasible
        self._is_over = False

    def _whose_turn(self, study: Study) -> tuple[BaseSampler, Study]:
        if not self._is_over:
            trials = study.get_trials(deepcopy=False, states=FINISHED)
            num_feasible = sum(not is_beyond(trial) for trial in trials)
            self._is_over = num_feasible >= self._num_feasible
        return (self._then if self._is_over else self._first), study
