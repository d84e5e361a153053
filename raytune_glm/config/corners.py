"""The search space against the run that it changes: its paths, and the run at each of its corners.

Read next: `check`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from raytune_glm import space as spaces
from raytune_glm.config.faults import known_keys
from raytune_glm.config.load import run_of, trial_run
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.errors import ConfigError, UserError

_NO_TRIALS_OWN = frozenset(
    {"model.path", "model.family"}
    | {f"data.{name}" for name in ("dev", "dev_rows", "split_seed", "max_dev_rows")}
    | {f"data.{name}" for name in ("test", "max_test_rows", "retain", "max_retain_rows")}
)
"""One for all trials of a sweep, beside the section `run`: the base, and the rows that compare."""


def check_paths(sweep: SweepConfig) -> None:
    """Refuse paths of the search space that are no setting which a trial may have of its own.

    Raises:
        ConfigError: There is one; the message has the nearest that is.
    """
    known = _searchable_paths()
    lines = []
    for path, dimension in sweep.search.space.items():
        settings = [path]
        if isinstance(dimension, spaces.OneOf):
            settings += [f"{path}.{name}" for names in dimension.one_of.values() for name in names]
        lines += [_no_such(setting, known) for setting in settings if setting not in known]
        section = path.partition(".")[0]
        if section != path and section in sweep.search.space:
            lines.append(
                f"search.space.{path}: must not stand beside search.space.{section}, which sets "
                f"the whole section: search it inside that one"
            )
    if lines:
        raise ConfigError("\n".join(lines))


def _no_such(setting: str, known: list[str]) -> str:
    shared = [path for path in _all_paths() if path not in known]
    near = difflib.get_close_matches(setting, [*known, *shared], 1, cutoff=0.5)
    if near and near[0] in shared:
        return (
            f"search.space.{setting}: {near[0]} is one for all trials of a sweep and cannot be "
            "searched: write it in its section"
        )
    hint = f": did you mean {near[0]}?" if near else ""
    return (
        f"search.space.{setting}: there is no such setting that a trial can have of its own{hint}"
    )


def _all_paths() -> list[str]:
    return [
        path
        for section in RunConfig.model_fields
        for path in (section, *(f"{section}.{name}" for name in known_keys(RunConfig, [section])))
    ]


def _searchable_paths() -> list[str]:
    """Settings that a trial may have of its own."""
    return [
        path
        for path in _all_paths()
        if path.partition(".")[0] != "run" and path not in _NO_TRIALS_OWN
    ]


def corner_runs(sweep: SweepConfig, faults: list[UserError]) -> list[RunConfig]:
    """Make the run of each corner of the space, and of what the sweep is to start with.

    Args:
        sweep: The sweep.
        faults: A corner that is no legal run is added here instead.
    """
    base = run_of(sweep)
    first_at: dict[str, str] = {}
    runs = []
    for corner in spaces.corners(sweep.search.space):
        try:
            runs.append(trial_run(base, corner))
        except ConfigError as error:
            # One bad value makes a bad corner with every combination of the others.
            first_at.setdefault(str(error), _show(corner))
    faults += [ConfigError(f"search.space: at {at}, {text}") for text, at in first_at.items()]
    for values in sweep.search.start_with:
        given = _Given(spaces.locate(sweep.search.space, values))
        runs.append(trial_run(base, spaces.choose(sweep.search.space, given)))
    return runs


class _Given:
    """A chooser of given values, and of the first extreme where none is."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._values.get(name, choices[0])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._values.get(name, low))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._values.get(name, low))


def _show(corner: spaces.Overrides) -> str:
    return ", ".join(f"{path}={value}" for path, value in corner.items())
