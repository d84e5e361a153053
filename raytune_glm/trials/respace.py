"""Bringing a study to a changed search space, as a sweep is resumed that is to search another one.

Optuna wants one distribution a parameter throughout a study. So the study is written anew: each
trial keeps its number, its values and its reports; where it is a point of the new space the sampler
goes on learning from it, else it stays as history alone. The former study stays in the storage
under a name of its own, and a kill at any moment leaves one of the two whole.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial

from raytune_glm import space as spaces
from raytune_glm.config import RunConfig, SweepConfig, run_of, trial_run
from raytune_glm.errors import ConfigError
from raytune_glm.trials.history import at_path, point_of
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.study import PARAMS, SPACE, storage_of

log = logging.getLogger(__name__)

GENERATION = "generation"
"""Attribute of a study: how often its space has changed."""
FORMER = "former"
"""Attribute of a study that is being written anew: the name of the one that it is made from."""


def fit_study(results: ResultsFolder, sweep: SweepConfig) -> int:
    """Bring a sweep's study to the sweep's space, where it has another one.

    Args:
        results: The sweep's folder, whose lock the caller holds.
        sweep: The sweep as it is to go on.

    Returns:
        How many trials are history alone from now on; 0 where the space is what it was.
    """
    name = results.root.name
    if not results.has_trials():
        return 0  # what a storage still has under this name is about to be dropped
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = storage_of(results, sweep.search.storage)
    space = sweep.model_dump(mode="json")["search"]["space"]
    former = _former(storage, name, space)
    if former is None:
        return 0
    study = _begin_anew(storage, name, former)
    fitted = [_fit(trial, sweep) for trial in former.get_trials(deepcopy=False)]
    study.add_trials(fitted)
    study.set_user_attr(GENERATION, former.user_attrs.get(GENERATION, 0) + 1)
    study.set_user_attr(SPACE, space)
    misfits = sum(not trial.params for trial in fitted)
    log.info("the space has changed: %d of %d trials are history", misfits, len(fitted))
    return misfits


def _former(storage: BaseStorage, name: str, space: dict[str, Any]) -> optuna.Study | None:
    """The study to begin anew from, kept under a name of its own; None where there is no need."""
    names = optuna.get_all_study_names(storage)
    if name not in names:
        # Killed right after the study was dropped to be written anew.
        kept = [other for other in names if other.startswith(_kept_name(name, ""))]
        return optuna.load_study(study_name=max(kept), storage=storage) if kept else None
    study = optuna.load_study(study_name=name, storage=storage)
    attrs = study.user_attrs
    if SPACE not in attrs and FORMER in attrs:  # killed while it was being written anew
        return optuna.load_study(study_name=attrs[FORMER], storage=storage)
    if attrs.get(SPACE, space) == space:
        return None
    kept_name = _kept_name(name, f"{attrs.get(GENERATION, 0):03d}")
    if kept_name in names:  # killed while it was being copied
        optuna.delete_study(study_name=kept_name, storage=storage)
    optuna.copy_study(
        from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=kept_name
    )
    return optuna.load_study(study_name=kept_name, storage=storage)


def _kept_name(name: str, generation: str) -> str:
    return f"{name}, space {generation}"


def _begin_anew(storage: BaseStorage, name: str, former: optuna.Study) -> optuna.Study:
    """An empty study under `name` in place of the one that is there."""
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(storage=storage, study_name=name, directions=former.directions)
    study.set_user_attr(FORMER, former.study_name)
    for key, value in former.user_attrs.items():
        if key not in (SPACE, FORMER):
            study.set_user_attr(key, value)
    return study


def _fit(trial: FrozenTrial, sweep: SweepConfig) -> FrozenTrial:
    """The same trial with parameters of the sweep's space; none where it is no point of that."""
    fixed = _point(trial, sweep)
    fitted = copy.copy(trial)
    fitted.params = fixed.params
    fitted.distributions = fixed.distributions
    return fitted


def _point(trial: FrozenTrial, sweep: SweepConfig) -> FixedTrial:
    base, space = run_of(sweep), sweep.search.space
    if PARAMS not in trial.user_attrs:
        return FixedTrial({})
    params: spaces.Overrides = trial.user_attrs[PARAMS]
    try:
        run = trial_run(base, params)
        if _differs_elsewhere(run, base, params, space):
            return FixedTrial({})
        fixed = FixedTrial(spaces.locate(space, point_of(space, run.model_dump(mode="json"))))
        spaces.choose(space, fixed)
    except (ConfigError, ValueError):
        return FixedTrial({})
    return fixed


def _differs_elsewhere(
    run: RunConfig, base: RunConfig, params: spaces.Overrides, space: spaces.Space
) -> bool:
    """Whether a trial has a value of its own where the space now has none to choose."""
    own, common = run.model_dump(mode="json"), base.model_dump(mode="json")
    searched = {path.partition(".")[0] for path, d in space.items() if isinstance(d, spaces.OneOf)}
    return any(
        at_path(own, path) != at_path(common, path)
        for path in params
        if path not in space and path.partition(".")[0] not in searched
    )
