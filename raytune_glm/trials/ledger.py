"""The ledger of a sweep, kept in the Optuna study: what was proposed, what reported, how it ended.

The study on disk is the truth about the sweep: each report is an intermediate value; a trial that
the scheduler stopped is PRUNED; one that did not fit into memory, or is beyond a limit, is PRUNED
with a constraint that says how far, since samplers pass over what is FAIL; a crash is FAIL. A trial
that was running when the driver died is proposed again under its number and goes on from its
checkpoint. This file knows Optuna and not Ray. Read next: `bridge`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_glm import files, ladder
from raytune_glm import space as spaces
from raytune_glm.checkpoint import copy_checkpoint
from raytune_glm.metrics import METRICS, preference
from raytune_glm.search import SearchSettings
from raytune_glm.search.pairs import changeable
from raytune_glm.search.quantities import QUANTITIES, excess, measured
from raytune_glm.search.schedulers import STEP, PBTSettings
from raytune_glm.search.storage import ORIGIN
from raytune_glm.trials.records import ResultsFolder, State, TrialRow, trial_row
from raytune_glm.trials.study import PARAMS, STATE, SweepStudy, open_study
from raytune_glm.trials.variants import Dues, Use

log = logging.getLogger(__name__)

ERROR = "error"
"""Attribute of a trial in the study: what went wrong."""
NOTE = "note"
"""Attribute of a trial in the study: why it is complete before its last step."""
PARENT = "parent"
"""Attribute of a trial that is a copy of another: that one's `number`, the `step` at which it was
copied, and the trial that it `replaces`, if it does."""

ADDED = "added_trials"
"""Attribute of the study: how many trials more than its settings say were asked for."""
ORDERS = "orders"
"""Attribute of a trial and of the study: what was ordered from outside about it, and when."""

MEMORY = "memory"
"""Constraint of a trial that did not fit into memory, always 1: by how much, nobody knows."""

OPTUNA_STATE = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
    State.INFEASIBLE: TrialState.PRUNED,
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
    parent: Mapping[str, int] | None = None
    """Of a copy: see `PARENT`."""
    is_sheltered: bool = False
    """Whether it runs to its end whatever the scheduler says."""
    is_over_budget: bool = False
    """Whether it has used all that a trial may, and so is complete."""

    @property
    def number(self) -> int:
        """Number in the study, from 0."""
        return self.handle.number

    @property
    def id(self) -> str:
        """Name of the trial's folder."""
        return f"{self.number:04d}"

    @property
    def last_step(self) -> int:
        """Optimizer steps done at its last evaluation, 0 before the first."""
        step: int = self.reports[-1][STEP] if self.reports else 0
        return step

    @property
    def progress(self) -> float:
        """Share of its steps that are done, 0 to 1; 1 where it is complete for another reason."""
        if self.is_over_budget:
            return 1.0
        return self.reports[-1][STEP] / self.reports[-1]["total_steps"] if self.reports else 0.0


class Ledger:
    """Proposes trials, takes their reports, and writes down how they ended."""

    def __init__(
        self,
        results: ResultsFolder,
        settings: SearchSettings,
        *,
        mode: Literal["min", "max"],
        history: Sequence[FrozenTrial] = (),
    ) -> None:
        """Open the study in `results`, or make it.

        Args:
            results: The sweep's folder.
            settings: What to search and who proposes.
            mode: Whether the metric is better when small or when large.
            history: Earlier sweeps' trials that a new study begins with.
        """
        self._results = results
        self._settings = settings
        self.mode = mode
        self._dues = Dues(settings)
        self._study: SweepStudy = open_study(results, settings)
        if not self._study.get_trials(deepcopy=False):
            self._begin(history)
        known = self._study.get_trials(deepcopy=False)
        self._study.sampler = settings.sampler.build(
            num_trials_before=len(known), space=settings.space
        )
        own = [trial for trial in known if ORIGIN not in trial.user_attrs]
        self._num_waiting = sum(trial.state is TrialState.WAITING for trial in own)
        # Asked for some ten times a second, which would be as many questions to the storage.
        self._num_added: int = self._study.user_attrs.get(ADDED, 0)
        self._num_copies = sum(PARENT in trial.user_attrs for trial in own)
        self.rows = {row.number: row for row in results.rows()}
        """Finished trials by number, those of before a resume included."""
        self.live: dict[int, LiveTrial] = {}
        """Running trials by number."""
        begun = [trial for trial in own if trial.state is not TrialState.WAITING]
        unfinished = [trial for trial in begun if trial.number not in self.rows]
        self._ready = [live for trial in unfinished if (live := self._unless_over(trial))]

    def _begin(self, history: Sequence[FrozenTrial]) -> None:
        for trial in history:
            self._study.add_trial(trial)
        for values in self._settings.start_with:
            self._study.enqueue_trial(spaces.locate(self._settings.space, values))

    def _unless_over(self, trial: FrozenTrial) -> LiveTrial | None:
        """A trial to go on with; of one whose end a kill kept from being written down, write it."""
        live = self._live(trial)
        if trial.state.is_finished():
            self._write_row(
                live, State(trial.user_attrs[STATE]), *map(trial.user_attrs.get, (ERROR, NOTE))
            )
            return None
        if live.progress >= 1:
            self.live[live.number] = live
            self.finish(live.number, State.COMPLETE)
            return None
        return live

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep: as many as were asked for, and the copies of some."""
        return self._settings.num_trials + self._num_added + self._num_copies

    @property
    def num_left(self) -> int:
        """Trials that the sweep has still to propose, those left unfinished before a resume too."""
        left = max(0, self.num_trials - len(self.rows) - len(self.live))
        is_spent = not self._ready and self._dues.next_variant(self._uses()) is None
        return 0 if is_spent else left

    def propose(self) -> LiveTrial:
        """Choose the next trial: first those to go on with, then what the sampler says."""
        live = self._ready.pop(0) if self._ready else self._ask()
        self.live[live.number] = live
        return live

    def _ask(self) -> LiveTrial:
        if self._num_waiting:
            self._num_waiting -= 1
        elif due := self._dues.next_variant(self._uses()):
            self._study.enqueue_trial(due)
        handle = self._study.ask()
        return LiveTrial(handle=handle, params=self._choose(handle), chosen_at=time.time())

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
        live = LiveTrial(
            handle=handle,
            params=params,
            chosen_at=chosen_at,
            parent=trial.user_attrs.get(PARENT),
        )
        live.reports = files.read_lines(self._results.trial(live.id) / "metrics.jsonl")
        live.is_over_budget = any(map(self._settings.is_over_budget, live.reports))
        return live

    def add(self, count: int) -> None:
        """Run more trials than the settings say, now and after a resume."""
        self._num_added += count
        self._study.set_user_attr(ADDED, self._num_added)

    def has(self, number: int) -> bool:
        """Whether there is a trial of this number, ended, running or waiting."""
        return number in self.rows or any(live.number == number for live in self._open())

    def params_of(self, number: int) -> spaces.Overrides:
        """The values of a trial that there is."""
        if number in self.rows:
            return dict(self.rows[number].params)
        [params] = [live.params for live in self._open() if live.number == number]
        return dict(params)

    def _open(self) -> Iterator[LiveTrial]:
        yield from self.live.values()
        yield from self._ready

    def suspend(self, number: int) -> LiveTrial:
        """Set a running trial aside: it is proposed again, before others, and goes on."""
        live = self.live.pop(number)
        self._ready.insert(0, live)
        return live

    def end_waiting(self, number: int) -> TrialRow | None:
        """End a trial that is set aside, with what it has reached; None where none such waits."""
        for live in self._ready:
            if live.number == number:
                self._ready.remove(live)
                self.live[number] = live
                return self.finish(number, State.PRUNED)
        return None

    def note(self, order: Mapping[str, Any], *, number: int | None = None) -> None:
        """Write an order from outside into the study.

        Args:
            order: What was ordered.
            number: The trial that it is about; none: the whole sweep.
        """
        entry = {**order, "at": time.time()}
        if number is None:
            told = self._study.user_attrs.get(ORDERS, [])
            self._study.set_user_attr(ORDERS, [*told, entry])
            return
        [live] = [live for live in self._open() if live.number == number]
        told = live.handle.user_attrs.get(ORDERS, [])
        live.handle.set_user_attr(ORDERS, [*told, entry])

    def copy(
        self,
        number: int,
        params: spaces.Overrides,
        *,
        replaces: int | None = None,
        warm: bool = True,
    ) -> LiveTrial:
        """Begin a trial that is another one's copy under other values.

        It is proposed before any new trial is, and counts in addition to those of the settings.

        Args:
            number: The trial to copy.
            params: The copy's values; from those outside the space the sampler learns nothing.
            replaces: Number of the trial whose place it takes, if any.
            warm: Whether it goes on from the other one's last checkpoint, or begins at step 0.
        """
        fixed, params = self._fixed(params)
        handle = self._study.begin(fixed, user_attrs={PARAMS: params})
        live = LiveTrial(handle=handle, params=params, chosen_at=time.time())
        folder = self._results.trial(live.id)
        source = self._results.trial(f"{number:04d}")
        step = 0
        if warm:
            step = copy_checkpoint(source / "checkpoint", folder / "checkpoint")
            ladder.copy(source, folder)  # which the checkpoint may be of
        for report in files.read_lines(source / "metrics.jsonl"):
            if report[STEP] <= step:
                self._take(live, report)
        # Of a checkpoint that was saved since the last report came, the copy itself will tell.
        live.parent = {"number": number, "step": live.last_step}
        if replaces is not None:
            live.parent = {**live.parent, "replaces": replaces}
        handle.set_user_attr(PARENT, live.parent)
        self._num_copies += 1
        self._ready.append(live)
        return live

    def _fixed(self, params: spaces.Overrides) -> tuple[optuna.trial.FixedTrial, spaces.Overrides]:
        """Values as the study stores them, nothing for a point outside the space; and as chosen."""
        try:
            fixed = optuna.trial.FixedTrial(spaces.locate(self._settings.space, params))
            return fixed, spaces.choose(self._settings.space, fixed)
        except ValueError:
            return optuna.trial.FixedTrial({}), params

    def replace(self, number: int, donor: int) -> None:
        """Give a stopped trial's place to a copy of a better one, for `search.scheduler` pbt."""
        scheduler, space = self._settings.scheduler, self._settings.space
        assert isinstance(scheduler, PBTSettings), "only PBT replaces trials"
        # By both numbers, so that a resumed sweep does not repeat its first changes.
        rng = random.Random(f"{scheduler.seed} {number} {donor}")
        params = dict(self.live[donor].params)
        for path in changeable(space):
            dimension = space[path]
            assert not isinstance(dimension, spaces.OneOf), "no setting of `train` is a section"
            params[path] = dimension.perturb(
                params[path], rng, resample=scheduler.resample_probability
            )
        self.copy(donor, params, replaces=number)

    def shelter(self, number: int) -> bool:
        """Whether a trial that a scheduler would stop must go on, for `search.quota.complete`."""
        live = self.live[number]
        if not live.is_sheltered:
            others = [*self._finished_uses(), *self._sheltered_uses()]
            live.is_sheltered = self._dues.must_complete(self._use(live), others)
        return live.is_sheltered

    def _uses(self) -> Iterator[Use]:
        yield from self._finished_uses()
        yield from map(self._use, self.live.values())

    def _finished_uses(self) -> Iterator[Use]:
        for row in self.rows.values():
            used = row.device_seconds if self._settings.budget.field != STEP else row.steps
            yield Use(params=row.params, used=used or 0.0, state=row.state)

    def _sheltered_uses(self) -> Iterator[Use]:
        return map(self._use, (live for live in self.live.values() if live.is_sheltered))

    def _use(self, live: LiveTrial) -> Use:
        used = live.reports[-1].get(self._settings.budget.field, 0.0) if live.reports else 0.0
        return Use(params=live.params, used=used, state=None)

    def report(self, number: int, report: Mapping[str, Any]) -> None:
        """Take one evaluation of a trial; what a resumed trial reports again is not taken twice."""
        live = self.live[number]
        if live.reports and report[STEP] <= live.reports[-1][STEP]:
            return
        self._take(live, report)

    def reports_of(self, number: int) -> list[dict[str, Any]]:
        """The evaluations of a trial that has ended."""
        reports: list[dict[str, Any]] = files.read_lines(
            self._results.trial(self.rows[number].id) / "metrics.jsonl"
        )
        return reports

    def _take(self, live: LiveTrial, report: Mapping[str, Any]) -> None:
        live.reports.append(dict(report))
        live.is_over_budget = self._settings.is_over_budget(report)
        files.append_line(self._results.trial(live.id) / "metrics.jsonl", report)
        self._study.report(live.handle, report[self._settings.metric], report[STEP])

    def is_over(self, number: int, report: Mapping[str, Any]) -> bool:
        """Whether a trial that reports this is at its end: its budget is spent, or a limit passed.

        Where the sampler learns from complete trials only, one beyond a limit runs to its end.
        """
        del number
        if STEP not in report:
            return False
        if self._settings.is_over_budget(report):
            return True
        may_stop = self._settings.sampler.learns_from_stopped
        return may_stop and _beyond(report, self._limits(costs_only=True)) is not None

    def _limits(self, *, costs_only: bool) -> dict[str, float]:
        limits = self._settings.limits.items()
        return {name: most for name, most in limits if QUANTITIES[name].is_cost or not costs_only}

    def finish(
        self, number: int, state: State, error: str | None = None, *, note: str | None = None
    ) -> TrialRow:
        """Write down the end of a trial, in the study and as a line of `trials.jsonl`.

        Args:
            number: The trial.
            state: How it ended; one that is beyond a limit is INFEASIBLE all the same.
            error: What went wrong.
            note: Why it is complete before its last step.
        """
        live = self.live.pop(number)
        told = OPTUNA_STATE[state]
        if state is State.INFEASIBLE:
            live.handle.set_constraint(MEMORY, 1.0)
        elif state is not State.FAILED:
            # A stopped trial might have come to a better score yet, but not to a lower cost.
            limits = self._limits(costs_only=state is State.PRUNED)
            values = self._measured(live, tuple(limits))
            for name, value in values.items():
                live.handle.set_constraint(name, excess(name, value, limits[name]))
            if beyond := _beyond(values, limits):
                state, error = State.INFEASIBLE, beyond
        live.handle.set_user_attr(STATE, state.value)
        if error is not None:
            live.handle.set_user_attr(ERROR, error)
        if note is not None:
            live.handle.set_user_attr(NOTE, note)
        if told is TrialState.COMPLETE:
            objectives = self._measured(live, self._settings.all_objectives)
            self._study.tell(number, values=list(objectives.values()))
        else:
            self._study.tell(number, state=told)
        return self._write_row(live, state, error, note)

    def _measured(self, live: LiveTrial, names: tuple[str, ...]) -> dict[str, float]:
        best = self._best(live.reports)
        return {} if best is None else measured(names, best=best, last=live.reports[-1])

    def _best(self, reports: list[dict[str, Any]]) -> dict[str, Any] | None:
        metric = METRICS[self._settings.metric]
        return max(reports, key=lambda report: preference(report, metric), default=None)

    def _write_row(
        self, live: LiveTrial, state: State, error: str | None, note: str | None
    ) -> TrialRow:
        row = trial_row(
            live.reports,
            best=self._best(live.reports),
            chosen_at=live.chosen_at,
            number=live.number,
            id=live.id,
            state=state,
            params=live.params,
            ladder=ladder.changes_of(self._results.trial(live.id)),
            parent=None if live.parent is None else live.parent["number"],
            error=error,
            note=note,
        )
        self._results.add(row)
        self.rows[row.number] = row
        return row


def _beyond(values: Mapping[str, Any], limits: Mapping[str, float]) -> str | None:
    for name, limit in limits.items():
        if name in values and excess(name, values[name], limit) > 0:
            side = "at most" if QUANTITIES[name].direction == "min" else "at least"
            return f"{name} is {values[name]:g}, while search.limits wants {side} {limit:g}"
    return None
