"""Earlier sweeps as history of a new one, for `search.warm_start`.

What is read is the results folder alone, whatever storage its study had: each trial's lines and the
configuration that it ran with, which has the settings that the earlier sweep did not search too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from raytune_glm import files
from raytune_glm import space as spaces
from raytune_glm.config import RunConfig, SweepConfig, run_of, trial_run
from raytune_glm.errors import ConfigError, shown
from raytune_glm.search.quantities import FORGETTING, measured
from raytune_glm.search.schedulers import STEP
from raytune_glm.search.storage import ORIGIN
from raytune_glm.trials.records import ResultsFolder, State, TrialRow
from raytune_glm.trials.study import PARAMS, STATE

log = logging.getLogger(__name__)

OTHER = "other_settings"
"""Attribute of such a trial: the settings, dotted, that a trial of this sweep with the same values
would have otherwise."""

SAME = (
    "model.path",
    "model.quantization",
    "model.precision",
    "data.train",
    "data.dev",
    "data.dev_rows",
    "data.split_seed",
    "data.max_dev_rows",
)
"""Settings that an earlier trial must share, unless they are searched: else scores do not compare.
The others, steps and batch size among them, may differ: trials are then told as stopped ones, which
a sampler compares by how far they came."""


NO_MATTER = (
    *("test", "max_test_rows", "retain", "max_retain_rows"),
    *("micro_batch_size", "gradient_checkpointing", "eval_batch_size"),
    *("metrics", "save_total_limit", "log_every_steps"),
)
"""Settings of `data` and `train` that change no score; the out-of-memory ladder changes some."""

SAME_RETAINED = ("data.retain", "data.max_retain_rows")
"""The same, where what is forgotten is an objective."""


def earlier_trials(sweep: SweepConfig) -> list[FrozenTrial]:
    """The trials of the sweeps in `search.warm_start` that fit this sweep's space.

    Raises:
        ConfigError: A folder holds no results, or none that can be compared or that fit.
    """
    return [trial for folder in sweep.search.warm_start for trial in _trials_of(folder, sweep)]


def _trials_of(folder: Path, sweep: SweepConfig) -> list[FrozenTrial]:
    if not (folder / "trials.jsonl").exists():
        raise ConfigError(
            "search.warm_start must list results folders of earlier sweeps, but there is no "
            f"{folder / 'trials.jsonl'}: give the results folder of a sweep with trials that "
            "ended, <run.storage>/<run.name>, or leave it out"
        )
    earlier = ResultsFolder(folder)
    rows = [row for row in earlier.rows() if row.state is not State.FAILED]
    found, reasons = [], []
    for row in rows:
        try:
            found.append(_trial(earlier, row, sweep))
        except ValueError as reason:
            reasons.append(str(reason))
    if not found:
        told = f", the first because {reasons[0]}" if reasons else ""
        raise ConfigError(
            f"search.warm_start must list sweeps with trials that fit this one, but none of the "
            f"{len(rows)} in {folder} does{told}: leave it out"
        )
    log.info("%s: %d of %d trials fit the space", folder, len(found), len(rows))
    return found


def _trial(earlier: ResultsFolder, row: TrialRow, sweep: SweepConfig) -> FrozenTrial:
    """Make a trial of the study from an earlier sweep's; ValueError where it does not fit."""
    folder = earlier.trial(row.id)
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from None
    _refuse_other_task(config, sweep)
    search = sweep.search
    fixed = FixedTrial(spaces.locate(search.space, point_of(search.space, config)))
    params = spaces.choose(search.space, fixed)
    reports = files.read_lines(folder / "metrics.jsonl")
    values = _values(row, reports, search.all_objectives)
    now, then = sweep.train, config["train"]
    is_complete = row.state is State.COMPLETE and len(values) == len(search.all_objectives)
    is_as_long = (then["max_steps"], then["epochs"]) == (now.max_steps, now.epochs)
    if row.state is not State.INFEASIBLE and search.metric not in values:
        raise ValueError(f"trial {row.id} did not measure {search.metric}")
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if is_complete and is_as_long else TrialState.PRUNED,
        values=list(values.values()) if is_complete and is_as_long else None,
        params=fixed.params,
        distributions=fixed.distributions,
        intermediate_values={
            report[STEP]: report[search.metric] for report in reports if search.metric in report
        },
        user_attrs={
            ORIGIN: {"folder": str(earlier.root), "number": row.number},
            OTHER: _other_settings(config, trial_run(run_of(sweep), params)),
            PARAMS: params,
            STATE: row.state.value,
        },
        constraints={"memory": 1.0} if row.state is State.INFEASIBLE else None,
    )


def _refuse_other_task(config: dict[str, Any], sweep: SweepConfig) -> None:
    now = sweep.model_dump(mode="json")
    searched = set(sweep.search.space)
    retained = SAME_RETAINED if FORGETTING in sweep.search.objectives else ()
    for path in (*SAME, *retained):
        here, there = at_path(now, path), at_path(config, path)
        if here != there and path not in searched:
            raise ValueError(f"its {path} is {shown(there)}, while this sweep's is {shown(here)}")


def _other_settings(config: dict[str, Any], run: RunConfig) -> list[str]:
    """What of method, rows and training is not as in a run of this sweep with the same values."""
    now = run.model_dump(mode="json", include={"data", "method", "train"})
    return [
        f"{section}.{name}"
        for section, settings in now.items()
        for name, value in settings.items()
        if name not in NO_MATTER and config[section].get(name, value) != value
    ]


def point_of(space: spaces.Space, config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration has at each path of a space; the settings of one variant only.

    Raises:
        ValueError: It has no such path.
    """
    point: dict[str, Any] = {}
    for path, dimension in space.items():
        value = at_path(config, path)
        if isinstance(dimension, spaces.OneOf):
            variant = value["name"]
            point[path] = variant
            for name in dimension.one_of.get(variant, {}):
                point[f"{path}.{name}"] = value[name]
        else:
            point[path] = value
    return point


def at_path(tree: Any, path: str) -> Any:
    """The value at a dotted path of nested mappings; ValueError where there is none."""
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            raise ValueError(f"its configuration has no {path}")
        tree = tree[key]
    return tree


def _values(
    row: TrialRow, reports: Iterable[dict[str, Any]], objectives: tuple[str, ...]
) -> dict[str, float]:
    by_step = {report[STEP]: report for report in reports}
    if row.best_step not in by_step:
        return {}
    return measured(objectives, best=by_step[row.best_step], last=by_step[max(by_step)])
