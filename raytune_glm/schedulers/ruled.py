"""A scheduler under rules that hold whatever it decides: budgets and limits, and shelter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler


class RuledScheduler(TrialScheduler):
    """Passes everything on to another scheduler, and overrules it in two cases."""

    def __init__(
        self,
        inner: TrialScheduler,
        *,
        must_stop: Callable[[int, Mapping[str, Any]], bool],
        must_go_on: Callable[[int], bool],
    ) -> None:
        """Overrule `inner`.

        Args:
            inner: Who decides over all other trials.
            must_stop: Says of a trial's number and its report whether it is over for good.
            must_go_on: Says of the number of a trial that `inner` would stop whether it must run to
                its end; asked again at its later reports, it gives the same answer.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it so
        self._inner = inner
        self._must_stop = must_stop
        self._must_go_on = must_go_on

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Pass on."""
        return bool(self._inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on; the inner scheduler sees reports that it has no say over, to compare with."""
        decision = str(self._inner.on_trial_result(tune_controller, trial, result))
        number = trial.config["number"]
        if self._must_stop(number, result):
            return str(TrialScheduler.STOP)
        if decision == TrialScheduler.STOP and self._must_go_on(number):
            return str(TrialScheduler.CONTINUE)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any, **kwargs: Any) -> Trial | None:
        """Pass on."""
        return self._inner.choose_trial_to_run(tune_controller, **kwargs)

    def debug_string(self) -> str:
        """Pass on."""
        return str(self._inner.debug_string())
