"""The last work on the cluster: the best trials repeated, the winner's saved adapter scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raytune_glm.config import SweepConfig
from raytune_glm.metrics import METRICS
from raytune_glm.report.confirmation import by_mean_on_dev, conclude
from raytune_glm.report.outcome import finished, repeats_of, winner_of
from raytune_glm.trials.cluster import Placement
from raytune_glm.trials.confirm import run_repeats
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.receipt import Finished, read_receipt, take_receipts
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.stage import Stage

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Settling:
    """What is left to do on the cluster once the search is over."""

    sweep: SweepConfig
    results: ResultsFolder
    placement: Placement
    hosts: Hosts | None
    """The pack hosts, where trials are packed."""
    console: Console

    def confirm(self, *, max_steps: int) -> bool:
        """Repeat the best trials under new seeds, where the sweep asks for it.

        Args:
            max_steps: Optimizer steps of the longest trial.

        Returns:
            Whether that is done; not so where Ctrl-C ended it.
        """
        repeats = repeats_of(self.results, self.sweep)
        if repeats is None:
            return True
        Stage.CONFIRM.enter(self.results.root)
        self.console.print(repeats.describe(), highlight=False)
        is_over = run_repeats(
            repeats, self.placement, self.hosts, self.console, max_steps=max_steps
        )
        if not is_over:
            return False
        metric = METRICS[self.sweep.search.metric]
        first_two = by_mean_on_dev(repeats, metric)[:2]
        self._score([run for row in first_two for run in repeats.finished_of(row)])
        conclude(repeats, metric)
        return True

    def score_winner(self) -> None:
        """Score the winner's saved adapter, if there is a winner."""
        best = winner_of(self.results, self.sweep)
        if best is not None:
            self.console.print(f"trial {best.number:<4} [blue]scoring[/blue]    the saved adapter")
            self._score([finished(self.results, self.sweep, best)])
            if read_receipt(self.results, best) is None:
                self.console.print("    it could not be scored: sweep.log says why")

    def _score(self, trials: list[Finished]) -> None:
        Stage.SCORE.enter(self.results.root)
        metrics = sorted({self.sweep.search.metric, *self.sweep.train.metrics})
        take_receipts(trials, self.placement, self.hosts, metrics=metrics)
