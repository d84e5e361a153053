"""What `search.storage` may say, and whether a study can be kept there. Read next: `settings`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm import files
from raytune_glm.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import Engine

JOURNAL = "journal"
"""`search.storage` of a journal file."""

HOME = "results_folder"
"""Attribute of a study in a storage of the user's: the results folder that it belongs to."""

ORIGIN = "from"
"""Attribute of a trial in the study that another sweep ran: that sweep's folder and number."""

PACKAGES = {"MySQLdb": "mysqlclient", "psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
"""Database drivers whose package on PyPI has another name than their module."""

_PASSWORDS = (
    # Up to the last @, since a password may have one in it that should have been written as %40.
    (re.compile(r"(://[^/:@\s]*):\S+@"), r"\1:***@"),
    (re.compile(r"((?:password|passwd|pwd)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


def masked(text: str) -> str:
    """Give a text with the passwords of the URLs in it as stars."""
    for password, stars in _PASSWORDS:
        text = password.sub(stars, text)
    return text


def check_storage(written: str | None, folder: Path) -> None:
    """Refuse a database in which a sweep could not keep its study; nothing is made in it.

    Args:
        written: `search.storage`; files in the results folder are as good as the folder.
        folder: The results folder, whose name is the study's.

    Raises:
        ConfigError: It cannot be reached or written, has another sweep under this name, or trials
            of this one that the results folder has not.
    """
    if written in (None, JOURNAL):
        return
    from sqlalchemy import create_engine, exc, make_url

    try:
        _refuse_removed(written)
        url = make_url(written)
        if url.get_backend_name() != "sqlite":
            _look_into(create_engine(url), written, folder, begin="SELECT 1")
        elif url.database is not None and Path(url.database).exists():
            _look_into(create_engine(url), written, folder, begin="BEGIN IMMEDIATE")
        elif url.database not in (None, "", ":memory:"):
            # A file that only a look would make; SQLite makes no folder.
            Path(url.database).parent.stat()
            files.check_writable(Path(url.database).parent)
    except ConfigError:
        raise
    except (OSError, ImportError, ValueError, exc.SQLAlchemyError) as error:
        raise unwritable(written, error) from None


def _look_into(engine: Engine, written: str, folder: Path, *, begin: str) -> None:
    """Connect, begin what is not ended, and see whose study is there, if tables are."""
    from optuna.storages import RDBStorage
    from sqlalchemy import inspect

    with engine.connect() as connection:
        connection.exec_driver_sql(begin)
        connection.rollback()
        has_studies = inspect(connection).has_table("studies")
    engine.dispose()
    if has_studies:
        storage = RDBStorage(written)
        refuse_other_home(storage, written, folder)
        if not any((folder / kept).exists() for kept in ("trials", "trials.jsonl")):
            refuse_loss(storage, written, folder)
        storage.engine.dispose()


def refuse_other_home(storage: BaseStorage, written: str | None, folder: Path) -> None:
    """Refuse a storage of the user's that has another results folder's sweep under the same name.

    Raises:
        ConfigError: It has.
    """
    import optuna

    name = folder.name
    # A results folder may be moved with the study in it; a database stays where it is.
    if written in (None, JOURNAL) or name not in optuna.get_all_study_names(storage):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    home = study.user_attrs.get(HOME, str(folder))
    if home != str(folder):
        raise ConfigError(
            f"search.storage must hold one sweep of a name, but {masked(str(written))} has {name} "
            f"of the results folder {home}: choose another run.name, or delete that study"
        )


def refuse_loss(storage: BaseStorage, written: str | None, folder: Path) -> None:
    """Refuse to begin a study anew in a storage of the user's where that would lose trials.

    Args:
        storage: Where the study is kept.
        written: `search.storage`.
        folder: The results folder, in which no trial has begun.

    Raises:
        ConfigError: The storage has finished trials of this sweep's own.
    """
    import optuna

    name = folder.name
    # A file in the results folder is as good as the folder, which the user emptied himself.
    if written in (None, JOURNAL) or name not in optuna.get_all_study_names(storage):
        return
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    finished = sum(t.state.is_finished() and ORIGIN not in t.user_attrs for t in trials)
    if finished:
        url = masked(str(written))
        raise ConfigError(
            "search.storage must have no finished trials of a sweep whose results folder has none, "
            f"but {url} has {finished} of {name}, and {folder} is empty or gone: choose another "
            "run.name, put the results folder back, or delete that study by "
            f"optuna delete-study --study-name {shlex.quote(name)} --storage {shlex.quote(url)}"
        )


def open_url(written: str) -> BaseStorage:
    """Open a storage URL of Optuna.

    Raises:
        ValueError: It is none, or none any more.
        ImportError: The database's driver is not installed.
    """
    from optuna.storages import get_storage

    _refuse_removed(written)
    return get_storage(written)


def _refuse_removed(written: str) -> None:
    if written.startswith("redis"):
        raise ValueError("Optuna keeps no studies in Redis")


def unwritable(written: str, error: BaseException) -> ConfigError:
    """Word why a study cannot be kept somewhere.

    Args:
        written: The storage, as a URL.
        error: What its driver says.
    """
    reason = masked(str(error).splitlines()[0].rstrip("."))
    return ConfigError(
        f"search.storage must be a storage that can be written, but {masked(written)} cannot: "
        f"{reason}: {_remedy(written, error)}"
    )


def _remedy(written: str, error: BaseException) -> str:
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and missing.name is not None:
        return f"pip install '{PACKAGES.get(missing.name, missing.name)}'"
    file = Path(written.removeprefix("sqlite:///"))
    if written.startswith("sqlite:///") and not file.parent.exists():
        return f"mkdir -p {file.parent}"
    return (
        "leave it out for a file in the results folder, write journal where that is on a network "
        "disk, or give the URL of a database that runs, such as "
        "postgresql+psycopg://user:password@host/name"
    )
