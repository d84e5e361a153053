"""TPE that compares trials at one step, as BOHB does, instead of by their final scores.

Under a scheduler few trials come to their end. Optuna's TPE then ranks the stopped ones by how far
they came before it looks at their scores; here they are compared where enough of them were.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class StudyAtOneStep(Study):
    """A study whose trials have the score that they had at a step."""

    def __init__(self, study: Study, *, num_at_step: int) -> None:
        """See `study` at the highest step that `num_at_step` of its trials came to."""
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        trials = study._get_trials(deepcopy=False, states=SEEN)
        reached = sorted((max(t.intermediate_values, default=-1) for t in trials), reverse=True)
        step = reached[num_at_step - 1] if len(reached) >= num_at_step else -1
        self._seen = [_at(step, trial) if step >= 0 else trial for trial in trials]

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]


def _at(step: int, trial: FrozenTrial) -> FrozenTrial:
    """The trial as it was at its first report from `step` on; itself where it has none."""
    later = [reported for reported in trial.intermediate_values if reported >= step]
    if not later:
        return trial
    seen = create_trial(
        state=TrialState.COMPLETE,
        params=trial.params,
        distributions=trial.distributions,
        value=trial.intermediate_values[min(later)],
        system_attrs=trial.system_attrs,
    )
    seen.number = trial.number
    return seen


class AtOneStep(BaseSampler):
    """Lets another sampler see the study at one step."""

    def __init__(self, inner: BaseSampler, *, num_at_step: int) -> None:
        """Let `inner` compare trials where `num_at_step` of them were."""
        self._inner = inner
        self._num_at_step = num_at_step
        self._study: StudyAtOneStep | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Ask the inner sampler; what it sees stays the same until the next trial."""
        self._study = StudyAtOneStep(study, num_at_step=self._num_at_step)
        return self._inner.infer_relative_search_space(self._study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the inner sampler."""
        return self._inner.sample_relative(self._study or study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the inner sampler."""
        return self._inner.sample_independent(
            self._study or study, trial, param_name, param_distribution
        )
