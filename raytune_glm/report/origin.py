"""Where a sweep's results came from: package versions, the project's revision, data hashes."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.data.cache import digest_file
from raytune_glm.errors import ConfigError
from raytune_glm.trials.records import ResultsFolder

PACKAGES = (
    "raytune-glm",
    "torch",
    "transformers",
    "peft",
    "ray",
    "deepspeed",
    "bitsandbytes",
    "datasets",
    "optuna",
    "pydantic",
    "sentencepiece",
)


def write_origin(results: ResultsFolder, sweep: SweepConfig) -> None:
    """Write `versions.json`, or make sure that the sweep goes on with the data that it began with.

    Raises:
        ConfigError: A data file is not what it was when the sweep's first trials ran.
    """
    now = origin(sweep)
    path = results.root / "versions.json"
    if results.has_trials() and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["data_sha256"]
        changed = [place for place, digest in now["data_sha256"].items() if before[place] != digest]
        if changed:
            raise ConfigError(
                f"{results.root} holds trials on other data: {', '.join(changed)} changed since. "
                "Choose another run.name, or remove the folder"
            )
    files.write_json(path, now)


def origin(sweep: SweepConfig) -> dict[str, Any]:
    """What `versions.json` holds."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": _git_revision(),
        "data_sha256": {
            place: digest_file(Path(place))
            for split in (sweep.data.train, sweep.data.dev, sweep.data.test)
            for place in split or ()
            if Path(place).is_file()
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the source that runs, with a mark if it was changed; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
