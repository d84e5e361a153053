"""`sweep.yaml`: the resolved configuration of a results folder, and what may change when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raytune_glm import files
from raytune_glm.config import SweepConfig
from raytune_glm.errors import ConfigError

FREE = {
    "run.max_failures",
    "run.ray_address",
    "search.max_concurrent",
    "search.num_trials",
    "search.time_budget_s",
}
"""Settings that may differ from one run of a sweep to the next: no trial's result depends on them."""


def write_settings(path: Path, sweep: SweepConfig) -> None:
    """Write the resolved configuration, or make sure that it is the one that is there.

    Raises:
        ConfigError: The folder holds another sweep.
    """
    tree = sweep.model_dump(mode="json")
    if path.exists():
        before = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        now = _flat(tree)
        changed = [
            f"  {key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key not in FREE
        ]
        if changed:
            raise ConfigError(
                f"{path.parent} holds a sweep with other settings, which this one would mix with:\n"
                + "\n".join(changed)
                + "\nchoose another run.name, or remove the folder"
            )
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    files.write_text(path, text)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in _flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
