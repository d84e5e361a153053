"""`sweep.yaml`, `run.yaml`: a folder's resolved configuration, and what a resume may change."""

from __future__ import annotations

from typing import Any

import yaml

from raytune_glm import files
from raytune_glm.config.overrides import flat
from raytune_glm.errors import ConfigError, shown
from raytune_glm.search.storage import masked
from raytune_glm.trials.records import ResultsFolder

FREE = (
    "run.disk_budget_gb",
    "run.max_failures",
    "run.pack_size",
    "run.memory_per_worker_bytes",
    "run.ray_address",
    "run.track",
    "search.confirm",
    "search.max_concurrent",
    "search.num_trials",
    "search.sampler",
    "search.space",
    "search.start_with",
    "search.time_budget_s",
    "search.warm_start",
    "train.save_total_limit",
)
"""Settings and sections that may differ from one run of a sweep to the next: what a trial's values
make of it does not depend on them."""


def _is_free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def write_settings(results: ResultsFolder, tree: dict[str, Any]) -> None:
    """Write the resolved configuration, or make sure that it is the one that is there.

    A folder in which no trial has begun holds nothing to mix with, and is taken over.

    Args:
        results: The folder.
        tree: Section -> setting -> value.

    Raises:
        ConfigError: The folder holds another sweep, or another run.
    """
    check_settings(results, tree)
    if not results.has_trials():
        for study in (results.study, results.journal):
            study.unlink(missing_ok=True)
    files.write_text(results.settings, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


def check_settings(results: ResultsFolder, tree: dict[str, Any]) -> None:
    """Refuse what `write_settings` would; nothing is written."""
    path = results.settings
    for other in (ResultsFolder(results.root), ResultsFolder(results.root, alone=True)):
        if other.settings != path and other.settings.exists() and other.has_trials():
            raise ConfigError(
                f"{results.root} holds what another command trained ({other.settings.name}), which "
                "this one would mix with: choose another run.name"
            )
    if results.has_trials() and path.exists():
        before = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        now = flat(tree)
        changed = [
            masked(f"  {key}: {shown(before.get(key))} then, {shown(now.get(key))} now")
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not _is_free(key)
        ]
        if changed:
            raise ConfigError(
                f"{results.root} was made with other settings, which these would mix "
                "with:\n" + "\n".join(changed) + "\nchoose another run.name, or remove the folder"
            )
