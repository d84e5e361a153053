"""The Optuna study of a sweep: where it is kept, and what it takes beyond Optuna's own rules.

Read next: `ledger`, which writes down in it what becomes of trials.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from raytune_glm.errors import ConfigError
from raytune_glm.search import SearchSettings
from raytune_glm.search.quantities import QUANTITIES
from raytune_glm.search.storage import (
    HOME,
    JOURNAL,
    open_url,
    refuse_loss,
    refuse_other_home,
    unwritable,
)
from raytune_glm.trials.records import ResultsFolder

SPACE = "space"
"""Attribute of a study that is whole: the space that its parameters are of."""

PARAMS = "params"
"""Attribute of a trial: its values, by dotted path."""
STATE = "state"
"""Attribute of a trial: how it ended, where Optuna's state would not tell."""


class SweepStudy(optuna.Study):
    """A study that keeps intermediate values of its first objective, however many there are."""

    @property
    def direction(self) -> StudyDirection:
        """The first objective's, by which TPE ranks stopped trials."""
        return self.directions[0]

    def report(self, trial: optuna.Trial, value: float, step: int) -> None:
        """Store an intermediate value, which `optuna.Trial.report` refuses to several objectives.

        Args:
            trial: A running trial of this study.
            value: Of the first objective.
            step: When it was measured.
        """
        self._storage.set_trial_intermediate_value(trial._trial_id, step, value)

    def begin(self, fixed: optuna.trial.FixedTrial, *, user_attrs: dict[str, Any]) -> optuna.Trial:
        """Begin a trial whose values are known, before any that waits in the queue.

        Args:
            fixed: The values, chosen from the space.
            user_attrs: The trial's attributes from its first moment on.
        """
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs=user_attrs,
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        return optuna.Trial(self, trial_id)


def open_study(results: ResultsFolder, search: SearchSettings) -> SweepStudy:
    """Open the study of a sweep, or make it.

    Args:
        results: The sweep's folder.
        search: Says what is optimized and where the study is kept.

    Raises:
        ConfigError: The storage cannot be written, holds another sweep under this name, or trials
            of this one that its folder has not.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return _open(results, search)
    except ConfigError:
        raise
    except (OSError, ImportError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise unwritable(_written(results, search), error) from None
    except optuna.exceptions.StorageInternalError as error:
        raise unwritable(_written(results, search), error.__cause__ or error) from None


def _open(results: ResultsFolder, search: SearchSettings) -> SweepStudy:
    name = results.root.name
    storage = storage_of(results, search.storage)
    refuse_other_home(storage, search.storage, results.root)
    if name in optuna.get_all_study_names(storage) and not results.has_trials():
        refuse_loss(storage, search.storage, results.root)
        optuna.delete_study(study_name=name, storage=storage)  # its folder was emptied
    if name not in optuna.get_all_study_names(storage):
        made = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[
                "maximize" if QUANTITIES[objective].direction == "max" else "minimize"
                for objective in search.all_objectives
            ],
        )
        made.set_user_attr(SPACE, search.model_dump(mode="json")["space"])
    study = SweepStudy(name, storage, pruner=optuna.pruners.NopPruner())
    # Written every time: a storage that can only be read is found here.
    study.set_user_attr(HOME, str(results.root))
    with warnings.catch_warnings():
        # Optuna's notice that names of objectives may change one day.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(search.all_objectives))
    return study


def storage_of(results: ResultsFolder, written: str | None) -> BaseStorage:
    """The storage that `search.storage` means for the sweep in `results`."""
    if written is None:
        return open_url(f"sqlite:///{results.study}")
    if written == JOURNAL:
        path = str(results.journal)
        # Made by O_EXCL, which network disks have, where they may have no symbolic links.
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return open_url(written)


def _written(results: ResultsFolder, search: SearchSettings) -> str:
    """The storage as a URL."""
    return search.storage or f"sqlite:///{results.study}"
