"""The search space against the run that it changes: the run at each of its corners.

Read next: `check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytune_glm import space as spaces
from raytune_glm.config.load import run_of, trial_run
from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.errors import ConfigError, UserError


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
    values = {path: "null" if value is None else value for path, value in corner.items()}
    return ", ".join(f"{path}={value}" for path, value in values.items())
