"""Holding a sweep against the model and the data on disk, before Ray or torch is even imported.

Everything that can be known to be wrong is found here, all of it at once: each corner of the search
space is made into the run it would be, and every section is checked against the model's true sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeVar

from raytune_glm.config.corners import corner_runs
from raytune_glm.config.deciding import check_decisions
from raytune_glm.config.execution import (
    Execution,
    hosting_obstacle,
    packing_obstacle,
    remark_pack_size,
    remark_zero_stage,
)
from raytune_glm.config.limits import check_limits, remark_limits
from raytune_glm.config.measuring import (
    check_answers,
    check_dev,
    check_dev_of_run,
    check_retain,
    remark_silent_rows,
)
from raytune_glm.config.paths import check_paths
from raytune_glm.config.places import check_results, check_study
from raytune_glm.config.plan import total_steps
from raytune_glm.config.rates import names_by_rate
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.data import DataConfig, Split, check_files, survey_files
from raytune_glm.errors import ConfigError, UserError
from raytune_glm.methods import METHODS
from raytune_glm.models import Checkpoint
from raytune_glm.search.remarks import remark_search
from raytune_glm.tracking import require_packages

T = TypeVar("T")

MAX_FAULTS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a checked sweep will do, in figures."""

    model: Checkpoint
    rows: Mapping[Split, int]
    """Rows of each split."""
    trainable: tuple[int, int]
    """Fewest and most trainable parameters of a trial."""
    steps: tuple[int, int]
    """Fewest and most optimizer steps of a trial."""
    tokens_per_step: tuple[int, int]
    """Fewest and most tokens of an optimizer step, were every row as long as allowed."""
    precisions: frozenset[str]
    """Every precision that a trial may have."""
    compiled_ops: frozenset[str]
    """Operations that DeepSpeed compiles on a host before every kind of trial can run there."""
    execution: Execution
    """How trials take up devices: as the user chose, or as all of them can."""
    obstacle: str | None
    """The setting that keeps some trial from more than that; None: nothing does."""
    off_hosts: str | None
    """The setting for which some trials have workers of their own where others are on hosts; None:
    all trials are alike in that."""
    remarks: tuple[str, ...]
    """What is no fault, and what the user may not have meant."""

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the longest trial."""
        return self.steps[1]


def check_sweep(sweep: SweepConfig) -> Plan:
    """Find everything that is wrong with a sweep, and work out its figures.

    Args:
        sweep: A sweep as `load_sweep` gives it.

    Returns:
        The sweep's figures.

    Raises:
        ConfigError: Settings are wrong, alone, together, or for this model; one message has all.
        ModelError: The checkpoint cannot be used.
        DataError: A data file cannot be used.
    """
    plan = _check(sweep, check_dev, check_study)
    remarks = (
        *remark_limits(sweep.search, plan.trainable),
        *remark_search(sweep.search, max_steps=plan.max_steps),
        *remark_pack_size(sweep, plan.execution, plan.obstacle),
        *remark_zero_stage(sweep, plan.execution, plan.off_hosts),
    )
    return replace(plan, remarks=(*plan.remarks, *remarks))


def check_run(run: SweepConfig) -> Plan:
    """As `check_sweep`, of a file that searches nothing: it may do without dev rows.

    Raises:
        ConfigError: As `check_sweep`.
        ModelError: As `check_sweep`.
        DataError: As `check_sweep`.
    """
    return replace(_check(run, check_dev_of_run), execution="solo", obstacle=None, off_hosts=None)


def _check(sweep: SweepConfig, *own_checks: Callable[[SweepConfig], None]) -> Plan:
    faults: list[UserError] = []
    _attempt(faults, lambda: check_paths(sweep))
    model = _attempt(faults, sweep.model.inspect)
    survey = _attempt(faults, lambda: survey_files(sweep.data))
    for own_check in (*own_checks, check_retain, check_results):
        _attempt(faults, partial(own_check, sweep))
    _attempt(faults, lambda: require_packages(sweep.run.track))
    if survey is not None:
        _attempt(faults, partial(check_answers, sweep, survey))
    if model is None or survey is None or faults:
        _refuse(faults)
    rows = survey.rows
    runs = corner_runs(sweep, faults)
    num_rows = _RowCounts(sweep.data, rows)
    for check in (
        lambda run: run.model.check(model),
        lambda run: _check_base_trainable(run, model),
        lambda run: run.method.check(model.shape, model.family),
        lambda run: _check_length(run, model),
        lambda run: _check_joining(run, model),
        lambda run: names_by_rate(run.method.trained(model.shape, model.family), run.train),
        lambda run: check_decisions(run, sweep.search, num_rows(run)),
        _check_execution,
    ):
        for run in runs:
            _attempt(faults, partial(check, run))
    if not faults:
        _attempt(faults, lambda: check_limits(sweep.search, runs, model))
    if faults:
        _refuse(faults)
    execution, obstacle, off_hosts = _execution(sweep, runs)
    return Plan(
        model=model,
        rows=rows,
        trainable=_span(run.method.trainable_parameters(model.shape, model.family) for run in runs),
        steps=_span(total_steps(run.train, num_rows=num_rows(run) or 0) for run in runs),
        tokens_per_step=_span(run.train.batch_size * run.data.max_length for run in runs),
        precisions=frozenset(run.model.precision for run in runs),
        compiled_ops=frozenset(op for run in runs for op in run.deepspeed.compiled_ops),
        execution=execution,
        obstacle=obstacle,
        off_hosts=off_hosts,
        remarks=(*survey.remarks, *remark_silent_rows(sweep, survey)),
    )


def _attempt(faults: list[UserError], check: Callable[[], T]) -> T | None:
    try:
        return check()
    except UserError as fault:
        faults.append(fault)
        return None


def _refuse(faults: list[UserError]) -> NoReturn:
    """Raise what was found as one error, of the kind of the first."""
    texts = list(dict.fromkeys(str(fault) for fault in faults))
    shown = texts[:MAX_FAULTS_SHOWN]
    if len(texts) > len(shown):
        shown.append(f"... and {len(texts) - len(shown)} more")
    raise type(faults[0])("\n".join(shown))


def _check_base_trainable(run: RunConfig, model: Checkpoint) -> None:
    """What is stored in a few bits has no gradients; adapters beside it have."""
    stored = model.stored_quantization
    if run.method.trains_base and stored is not None:
        fitting = (name for name, method in METHODS.items() if not method.trains_base)
        raise ConfigError(
            f"method.name must be one of {', '.join(fitting)} for a checkpoint whose weights are "
            f"stored as {stored}, since those are not trained themselves, but got "
            f"name={run.method.name}: take another method, or the checkpoint that is not quantised"
        )


def _check_length(run: RunConfig, model: Checkpoint) -> None:
    limit, taken = model.shape.max_length, run.method.added_tokens(model.family)
    if run.data.max_length > limit - taken:
        besides = f" less the {taken} virtual tokens of the method" if taken else ""
        raise ConfigError(
            f"data.max_length must be at most {limit - taken}, the longest sequence of this "
            f"model{besides}, but got max_length={run.data.max_length}"
        )


def _check_execution(run: RunConfig) -> None:
    """A pack that the user asks for must be able to hold every trial."""
    obstacle = packing_obstacle(run) if run.run.execution == "packed" else None
    if obstacle is not None:
        raise ConfigError(
            "run.execution must not be packed for trials that cannot share passes, but got "
            f"{obstacle}: write run.execution=auto, or leave that setting out"
        )


def _execution(
    sweep: SweepConfig, runs: list[RunConfig]
) -> tuple[Execution, str | None, str | None]:
    """Give `execution`, `obstacle` and `off_hosts` of a plan."""
    off_hosts = [found for run in runs if (found := hosting_obstacle(run)) is not None]
    if sweep.run.execution == "solo" or len(off_hosts) == len(runs):
        return "solo", off_hosts[0] if off_hosts else None, None
    on_hosts = [run for run in runs if hosting_obstacle(run) is None]
    alone = [found for run in on_hosts if (found := packing_obstacle(run)) is not None]
    kind: Execution = "packed"
    if alone:
        kind = "mixed" if len(alone) < len(on_hosts) else "hosted"
    return kind, alone[0] if alone else None, off_hosts[0] if off_hosts else None


def _check_joining(run: RunConfig, model: Checkpoint) -> None:
    """Rows may stand one behind the other where they do not see each other."""
    if not run.train.packing:
        return
    kind = model.config.get("model_type")
    if kind not in model.family.joining_model_types:
        raise ConfigError(
            f"train.packing must be false for a {model.family.name} model of model_type {kind}, "
            "whose attention is not known to keep packed rows apart: leave it out, or use "
            "train.group_by_length"
        )
    if run.model.attention not in ("auto", "eager", "sdpa"):
        raise ConfigError(
            f"train.packing must be false with model.attention={run.model.attention}, which was "
            "not held to keeping packed rows apart: leave it out, or use sdpa"
        )
    if run.method.leads_rows:
        raise ConfigError(
            f"train.packing must be false with method.name={run.method.name}, whose virtual "
            "tokens stand before each row: leave it out, or use train.group_by_length"
        )


class _RowCounts:
    """Training rows of a run, or None where nobody has counted them yet: those of the hub.

    A space may search them, and files are read once for all corners that have the same.
    """

    def __init__(self, data: DataConfig, rows: Mapping[Split, int]) -> None:
        self._found = {self._key(data): rows.get("train")}

    def __call__(self, run: RunConfig) -> int | None:
        key = self._key(run.data)
        if key not in self._found:
            self._found[key] = check_files(run.data).get("train")
        return self._found[key]

    @staticmethod
    def _key(data: DataConfig) -> tuple[tuple[str, ...], int | None]:
        """What a trial may have of its own and the count depends on."""
        return data.train, data.max_train_rows


def _span(values: Iterable[int]) -> tuple[int, int]:
    found = sorted(values)
    return found[0], found[-1]
