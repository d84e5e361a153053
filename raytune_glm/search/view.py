"""A sampler that sees other trials than the study has: the same ones, told in another way."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)

Look = Callable[[Study], list[FrozenTrial]]
"""Gives the trials of a study as a sampler is to see them."""


class ViewedStudy(Study):
    """A study with the trials that it is said to have."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        """Show `trials` as those of `study`."""
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._seen = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]


class ThroughView(BaseSampler):
    """Lets another sampler see a study through a view of it."""

    def __init__(self, inner: BaseSampler, look: Look) -> None:
        """Let `inner` see what `look` gives."""
        self._inner = inner
        self._look = look
        self._view: ViewedStudy | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Ask the inner sampler; what it sees stays the same until the next trial."""
        self._view = ViewedStudy(study, self._look(study))
        return self._inner.infer_relative_search_space(self._view, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the inner sampler."""
        return self._inner.sample_relative(self._view or study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the inner sampler."""
        return self._inner.sample_independent(
            self._view or study, trial, param_name, param_distribution
        )
