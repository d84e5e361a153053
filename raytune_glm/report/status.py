"""How a sweep stands, read from its results folder alone, whether it runs or not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raytune_glm import files
from raytune_glm.errors import ConfigError
from raytune_glm.metrics import METRICS
from raytune_glm.report.ranking import winner
from raytune_glm.trials.orders import PAUSED
from raytune_glm.trials.records import ResultsFolder, TrialRow


@dataclass(frozen=True, kw_only=True)
class Status:
    """A sweep as its folder shows it."""

    results: ResultsFolder
    name: str
    metric: str
    num_trials: int
    """As many as its file asks for; clones, copies and added ones come on top."""
    rows: dict[str, TrialRow]
    """The trials that have ended, by id."""
    open_ids: list[str]
    """Those that have begun and not ended."""

    @classmethod
    def of(cls, root: Path) -> Status:
        """Read a results folder.

        Raises:
            ConfigError: The folder's `sweep.yaml` is not one.
        """
        results = ResultsFolder(root)
        settings = yaml.safe_load((root / "sweep.yaml").read_text(encoding="utf-8"))
        try:
            name, search = settings["run"]["name"], settings["search"]
            metric, num_trials = search["metric"], search["num_trials"]
        except (KeyError, TypeError):
            raise ConfigError(f"{root / 'sweep.yaml'} must be a sweep's, but is not") from None
        rows = {row.id: row for row in results.rows()}
        begun = sorted(path.name for path in (root / "trials").glob("[0-9]*") if path.is_dir())
        return cls(
            results=results,
            name=name,
            metric=metric,
            num_trials=num_trials,
            rows=rows,
            open_ids=[trial_id for trial_id in begun if trial_id not in rows],
        )

    @property
    def is_over(self) -> bool:
        """Whether all that was asked for has ended."""
        return not self.open_ids and len(self.rows) >= self.num_trials

    def describe(self, *, is_running: bool) -> str:
        """A line for the sweep, one for each trial by its number, and one for the best.

        Args:
            is_running: Whether somebody runs the sweep now.
        """
        told = {trial_id: _ended(row, self.metric) for trial_id, row in self.rows.items()}
        told |= {trial_id: self._open(trial_id) for trial_id in self.open_ids}
        lines = [self._head(is_running=is_running), *(told[trial_id] for trial_id in sorted(told))]
        best = self._best(is_running=is_running)
        return "\n".join([*lines, best] if best else lines)

    def _head(self, *, is_running: bool) -> str:
        what = "running" if is_running else "over" if self.is_over else "not running"
        num_trials = max(self.num_trials, len(self.rows) + len(self.open_ids))
        head = f"{self.name}: {what}, {len(self.rows)} of {num_trials} trials ended"
        counts = Counter(row.state.value for row in self.rows.values())
        if counts:
            head += f" ({', '.join(f'{count} {state}' for state, count in counts.items())})"
        is_paused = is_running and (self.results.root / PAUSED).exists()
        return head + ", paused" if is_paused else head

    def _open(self, trial_id: str) -> str:
        path = self.results.trial(trial_id) / "metrics.jsonl"
        reports: list[dict[str, Any]] = files.read_lines(path)
        if not reports:
            return f"{int(trial_id):>5}  begun"
        last = reports[-1]
        return (
            f"{int(trial_id):>5}  begun       step {last['step']} of {last['total_steps']}  "
            f"{self.metric}={last[self.metric]:.4f}"
        )

    def _best(self, *, is_running: bool) -> str | None:
        """The winner, which repeats under new seeds may have chosen; before the end, the best."""
        summary = self.results.root / "summary.json"
        if self.is_over and not is_running and summary.exists():
            best = json.loads(summary.read_text(encoding="utf-8"))["best"]
            what, found = "winner", None if best is None else TrialRow.model_validate(best)
        else:
            what, found = "best so far", winner(self.rows.values(), METRICS[self.metric])
        if found is None:
            return None
        score = found.metrics["best"][self.metric]
        return f"{what}: trial {found.number}, {self.metric}={score:.4f}"

    def how_to_steer(self) -> str:
        """What to do where the sweep does not run, for whoever wanted to steer it."""
        if self.is_over:
            return (
                "it is over. For more trials give its own command again with a higher "
                "search.num_trials"
            )
        return "start it again with its own command, which goes on where it was"


def _ended(row: TrialRow, metric: str) -> str:
    best = row.metrics["best"].get(metric)
    score = "" if best is None else f"  best {metric}={best:.4f}"
    return f"{row.number:>5}  {row.state.value:<10}  step {row.steps}{score}"
