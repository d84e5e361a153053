"""Samplers that let others propose, and a study that shows them other trials than it has."""

from __future__ import annotations

from abc import abstractmethod
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


class Relay(BaseSampler):
    """Lets another sampler propose all values of a trial."""

    _turn: tuple[BaseSampler, Study]

    @abstractmethod
    def _whose_turn(self, study: Study) -> tuple[BaseSampler, Study]:
        """Who proposes the trial that begins now, and what study it sees until the next one."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Decide whose turn it is, and ask; Optuna begins each trial with this."""
        self._turn = self._whose_turn(study)
        sampler, seen = self._turn
        return sampler.infer_relative_search_space(seen, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the sampler whose turn it is."""
        sampler, seen = self._turn
        return sampler.sample_relative(seen, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the sampler whose turn it is."""
        sampler, seen = self._turn
        return sampler.sample_independent(seen, trial, param_name, param_distribution)


class ThroughView(Relay):
    """Lets another sampler see a study through a view of it."""

    def __init__(self, inner: BaseSampler, look: Look) -> None:
        """Let `inner` see what `look` gives."""
        self._inner = inner
        self._look = look

    def _whose_turn(self, study: Study) -> tuple[BaseSampler, Study]:
        return self._inner, ViewedStudy(study, self._look(study))
