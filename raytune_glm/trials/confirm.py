"""Confirming a sweep's best trials: each is trained again under new seeds, as a sweep of its own.

The repeats are trials of a second ledger, in `confirm/` of the results folder, so that they resume,
retry and go down the ladder as all others do. Read next: `raytune_glm.report.confirmation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.config import RunConfig, SweepConfig, run_of, trial_run
from raytune_glm.metrics import METRICS
from raytune_glm.search import SearchSettings
from raytune_glm.search.confirm import ConfirmSettings
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.receipt import Finished
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

if TYPE_CHECKING:
    from rich.console import Console

REPEAT = "repeat"
"""What the second ledger's only dimension is called; its values name a trial and a seed."""


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """The repeats of a sweep's best trials."""

    sweep: SweepConfig
    confirmed: ResultsFolder
    """The sweep's folder."""
    candidates: Sequence[TrialRow]
    """The trials that are repeated, the best one first."""
    seeds: Sequence[int]

    @classmethod
    def of(
        cls,
        sweep: SweepConfig,
        results: ResultsFolder,
        best: Sequence[TrialRow],
        confirm: ConfirmSettings,
    ) -> Repeats:
        """The repeats that a sweep asks for.

        Args:
            sweep: The sweep.
            results: Its folder.
            best: Its sound trials, the best one first.
            confirm: How many of them, how often.
        """
        candidates = best[: confirm.top]
        first = sweep.train.seed + 1
        return cls(
            sweep=sweep,
            confirmed=results,
            candidates=candidates,
            seeds=range(first, first + confirm.seeds),
        )

    @property
    def folder(self) -> Path:
        """Where they are; other candidates or seeds are other repeats, in another folder."""
        ids = "-".join(sorted(row.id for row in self.candidates))
        return self.confirmed.root / "confirm" / f"{ids}-x{len(self.seeds)}"

    @cached_property
    def results(self) -> ResultsFolder:
        """Their folder, made where it is not there."""
        return ResultsFolder(self.folder, data=self.confirmed.data)

    @property
    def num_ended(self) -> int:
        """How many have come to an end so far."""
        return len(self.results.rows()) if self.folder.exists() else 0

    @property
    def search(self) -> SearchSettings:
        """The second ledger's settings: every repeat once, all to their end."""
        names = [f"{row.id}/{seed}" for seed in self.seeds for row in self.candidates]
        return SearchSettings.model_validate(
            {
                "space": {REPEAT: {"choice": names}},
                "start_with": [{REPEAT: name} for name in names],
                "num_trials": len(names),
                "metric": self.sweep.search.metric,
                "sampler": {"name": "random"},
                "budget": {
                    "unit": self.sweep.search.budget.unit,
                    "per_trial": self.sweep.search.budget.per_trial,
                },
                "max_concurrent": self.sweep.search.max_concurrent,
            }
        )

    def describe(self) -> str:
        """One line for the terminal."""
        numbers = ", ".join(str(row.number) for row in self.candidates)
        return f"confirm    trials {numbers}, each under {len(self.seeds)} new seeds"

    def overrides(self, params: dict[str, Any]) -> dict[str, Any]:
        """What a repeat changes in the sweep's run."""
        trial_id, _, seed = params[REPEAT].partition("/")
        [row] = [row for row in self.candidates if row.id == trial_id]
        return {**row.params, **row.ladder, "train.seed": int(seed)}

    def finished_of(self, candidate: TrialRow) -> list[Finished]:
        """The repeats of a trial that came to their end, in the order of their seeds."""
        rows = {row.params[REPEAT]: row for row in self.results.rows()}
        names = [f"{candidate.id}/{seed}" for seed in self.seeds]
        return [
            Finished(run=self._run(rows[name]), row=rows[name], results=self.results)
            for name in names
            if name in rows and rows[name].state is State.COMPLETE
        ]

    def _run(self, row: TrialRow) -> RunConfig:
        return trial_run(run_of(self.sweep), {**self.overrides(row.params), **row.ladder})


def run_repeats(
    repeats: Repeats,
    placement: Placement,
    hosts: Hosts | None,
    console: Console,
    *,
    max_steps: int,
) -> bool:
    """Run the repeats that are left, on the cluster that is connected.

    Args:
        repeats: The repeats.
        placement: How trials take up the cluster.
        hosts: The pack hosts, where trials are packed.
        console: The terminal.
        max_steps: Optimizer steps of the longest trial.

    Returns:
        Whether all came to an end; not so where Ctrl-C interrupted them.
    """
    from raytune_glm.trials.tuner import run_trials

    mode = METRICS[repeats.sweep.search.metric].direction
    ledger = Ledger(repeats.results, repeats.search, mode=mode)
    if ledger.num_left:
        sweep = repeats.sweep.model_copy(update={"search": repeats.search})
        rows = ledger.rows.values()
        with Progress(console, repeats.search, mode=mode, rows=rows, noun="repeat") as progress:
            run_trials(
                sweep,
                repeats.results,
                ledger,
                progress,
                max_steps=max_steps,
                placement=placement,
                hosts=hosts,
                overrides_of=repeats.overrides,
                confirmed=repeats.confirmed.root,
            )
    return not (ledger.num_left or ledger.live)
