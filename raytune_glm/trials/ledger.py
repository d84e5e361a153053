"""The ledger of a sweep, kept in the Optuna study: what was proposed, what reported, how it ended.

The study on disk is the truth about the sweep: each report is an intermediate value, a trial that
the scheduler stopped is PRUNED, one that failed or did not fit is FAIL. A trial that was running
when the driver died is proposed again under its number and goes on from its checkpoint. This file
knows Optuna and not Ray. Read next: `bridge`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_glm import files, ladder
from raytune_glm import space as spaces
from raytune_glm.metrics import METRICS, preference
from raytune_glm.search import SearchSettings
from raytune_glm.search.schedulers import STEP
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

log = logging.getLogger(__name__)

PARAMS = "params"
"""Attribute of a trial in the study: its values, by dotted path."""
STATE = "state"
"""Attribute of a trial in the study: how it ended, where Optuna's FAIL would not tell."""
ERROR = "error"
"""Attribute of a trial in the study: what went wrong."""
NOTE = "note"
"""Attribute of a trial in the study: why it is complete before its last step."""

OPTUNA_STATE = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
    State.INFEASIBLE: TrialState.FAIL,
}


@dataclass(kw_only=True)
class LiveTrial:
    """A trial that is running, or about to."""

    handle: optuna.Trial
    """The trial in the study."""
    params: spaces.Overrides
    chosen_at: float
    """Seconds since 1970."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Its evaluations so far, those of before a resume included."""

    @property
    def number(self) -> int:
        """Number in the study, from 0."""
        return self.handle.number

    @property
    def id(self) -> str:
        """Name of the trial's folder."""
        return f"{self.number:04d}"

    @property
    def progress(self) -> float:
        """Share of its steps that are done, 0 to 1."""
        return self.reports[-1][STEP] / self.reports[-1]["total_steps"] if self.reports else 0.0


class Ledger:
    """Proposes trials, takes their reports, and writes down how they ended."""

    def __init__(
        self, results: ResultsFolder, settings: SearchSettings, *, mode: Literal["min", "max"]
    ) -> None:
        """Open the study in `results`, or make it.

        Args:
            results: The sweep's folder.
            settings: What to search and who proposes.
            mode: Whether the metric is better when small or when large.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._results = results
        self._settings = settings
        self.mode = mode
        self._study = optuna.create_study(
            storage=f"sqlite:///{results.study}",
            study_name=results.root.name,
            direction="maximize" if mode == "max" else "minimize",
            load_if_exists=True,
        )
        known = self._study.get_trials()
        self._study.sampler = settings.sampler.build(num_trials_before=len(known))
        self.rows = {row.number: row for row in results.rows()}
        """Finished trials by number, those of before a resume included."""
        self.live: dict[int, LiveTrial] = {}
        """Running trials by number."""
        unfinished = [t for t in known if t.number not in self.rows]
        self._to_resume = [t for t in unfinished if not self._is_over(t)]

    def _is_over(self, trial: FrozenTrial) -> bool:
        """Write what is missing of a trial whose end a kill kept from being written down whole."""
        live = self._live(trial)
        if trial.state.is_finished():
            self._write_row(
                live, State(trial.user_attrs[STATE]), *map(trial.user_attrs.get, (ERROR, NOTE))
            )
            return True
        if live.progress >= 1:
            self.live[trial.number] = live
            self.finish(trial.number, State.COMPLETE)
            return True
        return False

    @property
    def num_left(self) -> int:
        """Trials that the sweep has still to propose, those left unfinished before a resume too."""
        return max(0, self._settings.num_trials - len(self.rows) - len(self.live))

    def propose(self) -> LiveTrial:
        """Choose the next trial: first those to resume, then what the sampler says."""
        if self._to_resume:
            live = self._live(self._to_resume.pop(0))
        else:
            handle = self._study.ask()
            live = LiveTrial(handle=handle, params=self._choose(handle), chosen_at=time.time())
        self.live[live.number] = live
        return live

    def _choose(self, handle: optuna.Trial) -> spaces.Overrides:
        params = spaces.choose(self._settings.space, handle)
        handle.set_user_attr(PARAMS, params)
        return params

    def _live(self, trial: FrozenTrial) -> LiveTrial:
        handle = optuna.Trial(self._study, trial._trial_id)
        # A kill between asking and choosing left a trial without values.
        params = trial.user_attrs[PARAMS] if PARAMS in trial.user_attrs else self._choose(handle)
        assert trial.datetime_start is not None, "the study asked for it, so it has begun"
        chosen_at = trial.datetime_start.timestamp()
        live = LiveTrial(handle=handle, params=params, chosen_at=chosen_at)
        live.reports = files.read_lines(self._results.trial(live.id) / "metrics.jsonl")
        return live

    def report(self, number: int, report: Mapping[str, Any]) -> None:
        """Take one evaluation of a trial; what a resumed trial reports again is not taken twice."""
        live = self.live[number]
        if live.reports and report[STEP] <= live.reports[-1][STEP]:
            return
        live.reports.append(dict(report))
        files.append_line(self._results.trial(live.id) / "metrics.jsonl", report)
        live.handle.report(report[self._settings.metric], report[STEP])

    def finish(
        self, number: int, state: State, error: str | None = None, *, note: str | None = None
    ) -> TrialRow:
        """Write down the end of a trial, in the study and as a line of `trials.jsonl`."""
        live = self.live.pop(number)
        best = self._best(live.reports)
        live.handle.set_user_attr(STATE, state.value)
        if error is not None:
            live.handle.set_user_attr(ERROR, error)
        if note is not None:
            live.handle.set_user_attr(NOTE, note)
        if state is State.COMPLETE:
            assert best is not None, "a complete trial has reported"
            self._study.tell(number, values=best[self._settings.metric])
        else:
            self._study.tell(number, state=OPTUNA_STATE[state])
        return self._write_row(live, state, error, note)

    def _best(self, reports: list[dict[str, Any]]) -> dict[str, Any] | None:
        metric = METRICS[self._settings.metric]
        return max(reports, key=lambda report: preference(report, metric), default=None)

    def _write_row(
        self, live: LiveTrial, state: State, error: str | None, note: str | None
    ) -> TrialRow:
        last = live.reports[-1] if live.reports else {}
        best = self._best(live.reports)
        start = last.get("first_step_at")
        row = TrialRow(
            number=live.number,
            id=live.id,
            state=state,
            params=live.params,
            metrics={
                "final": _measured(last),
                "best": _measured(best or {}),
            },
            best_step=best[STEP] if best else None,
            steps=last.get(STEP, 0),
            seconds=last.get("seconds"),
            start_seconds=None if start is None else max(0.0, start - live.chosen_at),
            tokens_per_second=last.get("tokens_per_second"),
            peak_memory_bytes=last.get("peak_memory_bytes"),
            trainable_parameters=last.get("trainable_parameters"),
            ladder=ladder.changes_of(self._results.trial(live.id)),
            execution=last.get("execution", "solo"),
            error=error,
            note=note,
        )
        self._results.add(row)
        self.rows[row.number] = row
        return row


def _measured(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: report[name] for name in ("train_loss", *METRICS) if name in report}
