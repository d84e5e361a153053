"""How a sweep stands, read from its results folder alone, whether it runs or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm import files
from raytune_glm.config import SweepConfig, load_sweep
from raytune_glm.report.outcome import is_confirmed, is_settled, repeats_of, winner_of
from raytune_glm.trials.extra import num_extra
from raytune_glm.trials.orders import PAUSED
from raytune_glm.trials.records import ResultsFolder, TrialRow
from raytune_glm.trials.stage import Stage

HOW_TO_ADD = "for more trials give its own command again with a higher search.num_trials"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A sweep as its folder shows it."""

    results: ResultsFolder
    sweep: SweepConfig
    stage: Stage
    """What its driver is at, or was when it ended."""
    num_trials: int
    """As many as it is to have, added ones, clones and copies included."""
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
        sweep = load_sweep(results.settings)
        rows = {row.id: row for row in results.rows()}
        begun = sorted(path.name for path in (root / "trials").glob("[0-9]*") if path.is_dir())
        return cls(
            results=results,
            sweep=sweep,
            stage=Stage.of(root),
            num_trials=sweep.search.num_trials + num_extra(results, sweep.search),
            rows=rows,
            open_ids=[trial_id for trial_id in begun if trial_id not in rows],
        )

    @property
    def is_searched(self) -> bool:
        """Whether all trials that are asked for have ended."""
        return not self.open_ids and len(self.rows) >= self.num_trials

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do but, at most, to score the winner."""
        return self.is_searched and is_confirmed(self.results, self.sweep)

    def describe(self, *, is_running: bool) -> str:
        """A line for the sweep, one for each trial by its number, and one for the best.

        Args:
            is_running: Whether somebody runs the sweep now.
        """
        metric = self.sweep.search.metric
        told = {trial_id: _ended(row, metric) for trial_id, row in self.rows.items()}
        told |= {trial_id: self._open(trial_id) for trial_id in self.open_ids}
        lines = [self._head(is_running=is_running), *(told[trial_id] for trial_id in sorted(told))]
        best = self._best()
        return "\n".join([*lines, best] if best else lines)

    def _head(self, *, is_running: bool) -> str:
        what = "running" if is_running else "over" if self.is_over else "not running"
        num_trials = max(self.num_trials, len(self.rows) + len(self.open_ids))
        head = f"{self.sweep.run.name}: {what}, {len(self.rows)} of {num_trials} trials ended"
        counts = Counter(row.state.value for row in self.rows.values())
        if self.is_searched:
            head += self._settling(is_running=is_running)
        if counts:
            head += f" ({', '.join(f'{count} {state}' for state, count in counts.items())})"
        is_paused = is_running and (self.results.root / PAUSED).exists()
        return head + ", paused" if is_paused else head

    def _settling(self, *, is_running: bool) -> str:
        """What comes after the search, as far as it is to be told."""
        if is_running and self.stage is Stage.SCORE:
            return ", scoring saved adapters"
        repeats = repeats_of(self.results, self.sweep)
        if repeats is None or is_confirmed(self.results, self.sweep):
            return ""
        return f", {repeats.num_ended} of {repeats.search.num_trials} repeats under new seeds ended"

    def _open(self, trial_id: str) -> str:
        path = self.results.trial(trial_id) / "metrics.jsonl"
        reports: list[dict[str, Any]] = files.read_lines(path)
        if not reports:
            return f"{int(trial_id):>5}  begun"
        last, metric = reports[-1], self.sweep.search.metric
        return (
            f"{int(trial_id):>5}  begun       step {last['step']} of {last['total_steps']}  "
            f"{metric}={last[metric]:.4f}"
        )

    def _best(self) -> str | None:
        """The winner, which repeats under new seeds may have chosen; before the end, the best."""
        found = winner_of(self.results, self.sweep)
        if found is None:
            return None
        metric = self.sweep.search.metric
        told = f"trial {found.number}, {metric}={found.metrics['best'][metric]:.4f}"
        if not self.is_over:
            return f"best so far: {told}"
        is_scored = is_settled(self.results, self.sweep)
        return f"winner: {told}" + ("" if is_scored else ", its saved adapter not scored yet")

    def how_to_steer(self) -> str:
        """What to do where the sweep does not run, for whoever wanted to steer it."""
        if self.is_over:
            return f"it is over; {HOW_TO_ADD}"
        return "start it again with its own command, which goes on where it was"


def _ended(row: TrialRow, metric: str) -> str:
    best = row.metrics["best"].get(metric)
    score = "" if best is None else f"  best {metric}={best:.4f}"
    return f"{row.number:>5}  {row.state.value:<10}  step {row.steps}{score}"
