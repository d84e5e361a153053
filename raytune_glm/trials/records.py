"""The results folder of a sweep: where each file is, and what a finished trial's line holds.

    <storage>/<name>/
      sweep.yaml  versions.json  study.db  trials.jsonl
      summary.json  leaderboard.md  best.yaml  best/
      trials/<id>/   config.yaml  metrics.jsonl  train.jsonl  predictions.jsonl  worker.log
                     checkpoint/
      sweep.log  ray/                what the driver and Ray Tune had to say

Read next: `bridge`, which makes the trials, and `raytune_glm.report`, which reads the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from raytune_glm import files
from raytune_glm.errors import ConfigError
from raytune_glm.search.quantities import SCORES
from raytune_glm.search.schedulers import STEP


class State(str, Enum):
    """How a trial ended."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    """Stopped early by the scheduler."""
    FAILED = "FAILED"
    INFEASIBLE = "INFEASIBLE"
    """Did not fit into memory, or is beyond one of `search.limits`."""


class TrialRow(BaseModel):
    """A finished trial: one line of `trials.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Number of the trial in the Optuna study, from 0."""
    id: str
    """Name of its folder in `trials/`."""
    state: State
    params: dict[str, Any]
    """Dotted path -> the value that the search gave it."""
    metrics: dict[str, dict[str, float]]
    """`final`: the last evaluation; `best`: the one with the best value of the sweep's metric."""
    best_step: int | None
    """Optimizer steps done at the best evaluation."""
    steps: int
    """Optimizer steps done."""
    seconds: float | None
    """From the first step to the last report, evaluations included."""
    device_seconds: float | None = None
    """The same times the trial's workers."""
    start_seconds: float | None
    """From the moment the trial was chosen to its first step."""
    tokens_per_second: float | None
    """Tokens trained on a second, padding and evaluations left out, all workers."""
    padding: float | None = None
    """Padding as a share of the tokens that were worked on."""
    peak_memory_bytes: int | None
    """Largest memory of one worker: of the device's allocator, on a CPU of the process."""
    trainable_parameters: int | None
    ladder: dict[str, Any] = {}
    """Settings that want of memory changed, dotted path -> value; empty: it ran as chosen."""
    execution: str = "solo"
    parent: int | None = None
    """Number of the trial that it is a copy of, of its values alone or of its checkpoint too."""
    error: str | None = None
    """What went wrong, where the trial failed or did not fit."""
    note: str | None = None
    """Why a complete trial has not taken all its steps."""


def trial_row(
    reports: Sequence[Mapping[str, Any]],
    *,
    best: Mapping[str, Any] | None,
    chosen_at: float,
    **known: Any,
) -> TrialRow:
    """Sum up a finished trial.

    Args:
        reports: Its evaluations, in order.
        best: The best of them.
        chosen_at: When it was chosen, in seconds since 1970.
        known: The fields of the row that reports do not tell.
    """
    last = reports[-1] if reports else {}
    start = last.get("first_step_at")
    return TrialRow(
        metrics={"final": _scores(last), "best": _scores(best or {})},
        best_step=best[STEP] if best else None,
        steps=last.get(STEP, 0),
        seconds=last.get("seconds"),
        device_seconds=last.get("device_seconds"),
        start_seconds=None if start is None else max(0.0, start - chosen_at),
        tokens_per_second=last.get("tokens_per_second"),
        padding=last.get("padding"),
        peak_memory_bytes=last.get("peak_memory_bytes"),
        trainable_parameters=last.get("trainable_parameters"),
        execution=last.get("execution", "solo"),
        **known,
    )


def _scores(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: report[name] for name in ("train_loss", *SCORES) if name in report}


class ResultsFolder:
    """Paths and lines of the results of one sweep, or of a run that is trained alone."""

    def __init__(self, root: Path, *, data: Path | None = None, alone: bool = False) -> None:
        """Use `root`, made if it is not there.

        Args:
            root: The folder.
            data: Where encoded data is kept, if not inside.
            alone: Whether it is a run's, whose files lie in `root` itself.

        Raises:
            ConfigError: It cannot be made.
        """
        self.root = root
        self._alone = alone
        self.data = data or root / "data"
        """Encoded data that all trials read."""
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run.storage must be a folder that can be written, but {root} cannot be made: "
                f"{error}"
            ) from None

    @property
    def study(self) -> Path:
        """The Optuna study, an SQLite file."""
        return self.root / "study.db"

    @property
    def journal(self) -> Path:
        """The Optuna study where `search.storage` is `journal`."""
        return self.root / "study.journal"

    @property
    def trials(self) -> Path:
        """One line a finished trial."""
        return self.root / "trials.jsonl"

    @property
    def workers(self) -> Path:
        """Marks of the processes that are on a device."""
        return self.root / "workers"

    @property
    def settings(self) -> Path:
        """The resolved configuration."""
        return self.root / ("run.yaml" if self._alone else "sweep.yaml")

    def trial(self, trial_id: str) -> Path:
        """Folder of one trial."""
        return self.root if self._alone else self.root / "trials" / trial_id

    def has_trials(self) -> bool:
        """Whether any trial has begun here, at this run of the sweep or an earlier one."""
        if self._alone:
            return (self.root / "metrics.jsonl").exists() or (self.root / "checkpoint").exists()
        return self.trials.exists() or (self.root / "trials").exists()

    def rows(self) -> list[TrialRow]:
        """The finished trials in the order of their ends; of a trial told twice, the last line."""
        rows = map(TrialRow.model_validate, files.read_lines(self.trials))
        return list({row.number: row for row in rows}.values())

    def add(self, row: TrialRow) -> None:
        """Append a finished trial."""
        files.append_line(self.trials, row.model_dump(mode="json"))
