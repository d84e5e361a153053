"""TPE that compares trials at one step, as BOHB does, instead of by their final scores.

Under a scheduler few trials come to their end. Optuna's TPE then ranks the stopped ones by how far
they came before it looks at their scores; here they are compared where enough of them were.
"""

from __future__ import annotations

import copy

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from raytune_glm.search.view import SEEN


def trials_at_one_step(study: Study, *, num_at_step: int) -> list[FrozenTrial]:
    """The trials with the score that each had at the highest step that `num_at_step` came to."""
    trials = study._get_trials(deepcopy=False, states=SEEN)
    reached = sorted((max(t.intermediate_values, default=-1) for t in trials), reverse=True)
    step = reached[num_at_step - 1] if len(reached) >= num_at_step else -1
    return [_at(step, trial) if step >= 0 else trial for trial in trials]


def _at(step: int, trial: FrozenTrial) -> FrozenTrial:
    """The trial as it was at its first report from `step` on; itself where it has none."""
    later = [reported for reported in trial.intermediate_values if reported >= step]
    if not later:
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.COMPLETE
    seen.values = [trial.intermediate_values[min(later)]]
    return seen
