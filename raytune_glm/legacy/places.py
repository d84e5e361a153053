"""Where the old tools wrote, as this project's results folder."""

from __future__ import annotations

import re
from pathlib import Path

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.table import Given, Setting


def results_folder(given: Given, flag: str) -> list[Setting]:
    """The flag that names the output folder, as `run.storage` and `run.name`.

    Raises:
        ConfigError: Its last part cannot be the name of a results folder.
    """
    written = given[flag]
    if written is None:
        return []
    path = Path(written)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.name):
        raise ConfigError(
            f"--{flag} must end in a name of letters, digits, dots, underscores and dashes, but "
            f"got {written!r}: name another folder"
        )
    source = given.source(flag)
    return [
        Setting(path="run.storage", value=str(path.parent), source=source),
        Setting(path="run.name", value=path.name, source=source),
    ]
