"""Where a study can be kept is found out before a sweep starts, and no password is shown."""

from __future__ import annotations

import shlex
from pathlib import Path

import optuna
import pytest

from raytune_glm.errors import ConfigError
from raytune_glm.search.storage import HOME, ORIGIN, check_storage, masked, refuse_loss


def refusal(storage: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        check_storage(storage, folder)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("redis://:secret@host:6379", "redis://:***@host:6379"),
        ("at 'mysql://me:se@cr:et@host/db' now", "at 'mysql://me:***@host/db' now"),
        ("mysql://host/db?user=me&password=secret&a=b", "mysql://host/db?user=me&password=***&a=b"),
        ("sqlite:////home/me/study.db", "sqlite:////home/me/study.db"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
    ],
)
def test_a_password_is_never_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("storage", "remedy"),
    [
        ("sqlite:///{root}/none/a.db", "mkdir -p {root}/none"),
        (
            "mysql://me:secret@localhost:1/db",
            "No module named 'MySQLdb': pip install 'mysqlclient'",
        ),
        ("redis://:secret@localhost", "Optuna keeps no studies in Redis: leave it out for a file"),
        ("cassandra://me:secret@localhost/db", "or give the URL of a database that runs, such as "),
        ("no url at all", "write journal where that is on a network disk"),
        ("sqlite:///{root}/text.db", "file is not a database"),
    ],
)
def test_a_storage_that_cannot_be_written_is_refused_with_the_remedy_and_nothing_is_made(
    tmp_path: Path, storage: str, remedy: str
) -> None:
    (tmp_path / "text.db").write_text("no database at all\n" * 100, encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    message = refusal(storage.format(root=tmp_path), tmp_path / "results/sweep")
    assert message.startswith("search.storage must be a storage that can be written, but ")
    assert remedy.format(root=tmp_path) in message
    assert "secret" not in message
    assert sorted(tmp_path.rglob("*")) == before


def test_a_storage_that_can_be_written_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "results/sweep"
    storage = f"sqlite:///{tmp_path}/all.db"
    for written in (None, "journal", storage):
        check_storage(written, folder)
    assert list(tmp_path.iterdir()) == []
    study = optuna.create_study(study_name="sweep", storage=storage)
    study.set_user_attr(HOME, str(folder))
    check_storage(storage, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["all.db"]


def test_a_storage_with_another_sweep_of_the_name_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/all.db"
    study = optuna.create_study(study_name="sweep", storage=storage)
    study.set_user_attr(HOME, "/elsewhere/sweep")
    message = refusal(storage, tmp_path / "sweep")
    assert message.endswith(
        "has sweep of the results folder /elsewhere/sweep: choose another run.name, or delete that "
        "study"
    )
    check_storage(storage, tmp_path / "other")


def test_trials_in_a_database_are_not_dropped_because_their_folder_is_gone(tmp_path: Path) -> None:
    folder, storage = tmp_path / "my sweep", f"sqlite:///{tmp_path}/all.db"
    study = optuna.create_study(study_name=folder.name, storage=storage)
    study.set_user_attr(HOME, str(folder))
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={ORIGIN: {"number": 3}}))
    study.ask()  # a trial that a kill left without an end
    check_storage(storage, folder)
    for value in (0.5, 0.4):
        study.add_trial(optuna.trial.create_trial(value=value))
    message = refusal(storage, folder)
    assert "all.db has 2 of my sweep, and " in message
    assert "choose another run.name, put the results folder back, or delete that study" in message
    command = message[message.index("optuna delete-study") :]
    assert shlex.split(command)[2:] == ["--study-name", "my sweep", "--storage", storage]
    with pytest.raises(ConfigError, match=r"--storage 'postgresql://me:\*\*\*@host/db'$"):
        refuse_loss(study._storage, "postgresql://me:secret@host/db", folder)
    (folder / "trials").mkdir(parents=True)
    check_storage(storage, folder)
