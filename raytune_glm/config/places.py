"""Where a sweep writes must be writable, which is found out without leaving anything there."""

from __future__ import annotations

from raytune_glm import files
from raytune_glm.config.tree import SweepConfig
from raytune_glm.errors import ConfigError
from raytune_glm.search.storage import check_storage


def check_results(sweep: SweepConfig) -> None:
    """Refuse a results folder that cannot be made or written.

    Raises:
        ConfigError: It cannot.
    """
    try:
        files.check_writable(sweep.run.folder)
    except OSError as error:
        raise ConfigError(
            f"run.storage must be a folder that can be written, but {sweep.run.folder} cannot be: "
            f"{error.strerror or error}: choose another folder by run.storage"
        ) from None


def check_study(sweep: SweepConfig) -> None:
    """Refuse a study that could not be kept where `search.storage` says.

    Raises:
        ConfigError: It could not.
    """
    check_storage(sweep.search.storage, sweep.run.folder)
