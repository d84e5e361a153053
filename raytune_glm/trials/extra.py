"""The trials that a sweep has beyond its file's, for whoever looks from another process."""

from __future__ import annotations

import optuna
import sqlalchemy.exc

from raytune_glm.search import SearchSettings
from raytune_glm.search.storage import JOURNAL
from raytune_glm.trials.ledger import ADDED, PARENT
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.study import storage_of


def num_extra(results: ResultsFolder, search: SearchSettings) -> int:
    """Count the trials that were asked for while the sweep ran, clones and copies.

    Args:
        results: The sweep's folder.
        search: Says where the study is kept.

    Returns:
        As many; 0 where the study cannot be read from here.
    """
    if not any(path.exists() for path in (results.study, results.journal)) and (
        search.storage in (None, JOURNAL)
    ):
        return 0  # opening it would make it
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(
            study_name=results.root.name, storage=storage_of(results, search.storage)
        )
    except (
        *(KeyError, OSError, ImportError, ValueError),
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
    ):
        return 0
    copies = sum(PARENT in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    return int(study.user_attrs.get(ADDED, 0)) + copies
