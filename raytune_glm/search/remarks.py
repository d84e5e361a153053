"""What of a search is no fault, and what the user may not have meant. Read next: `settings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raytune_glm.search.confirm import FEWEST_SEEDS

if TYPE_CHECKING:
    from raytune_glm.search.settings import SearchSettings


def remark_search(search: SearchSettings, *, max_steps: int) -> Iterator[str]:
    """Tell what a search does otherwise than its settings promise.

    Args:
        search: The search.
        max_steps: Optimizer steps of the longest trial.
    """
    yield from _nothing_searched(search)
    yield from _never_learns(search)
    yield from _small_population(search)
    yield from _idle_budget(search, max_steps)
    yield from _confirms_little(search)


def _nothing_searched(search: SearchSettings) -> Iterator[str]:
    if not search.space and search.num_trials > 1:
        yield (
            f"search.space is empty, so that all {search.num_trials} trials are the same: search a "
            "setting, search.space.train.learning_rate={log_range: [1e-4, 1e-2]} say, or train "
            "the file once by search.num_trials=1"
        )


def _never_learns(search: SearchSettings) -> Iterator[str]:
    setting = search.sampler.waits_for
    if setting is None or not search.space or search.warm_start:
        return
    count = getattr(search.sampler, setting)
    if count is not None and count >= search.num_trials:
        yield (
            f"search.sampler {search.sampler.name} proposes at random before it has seen "
            f"{setting}={count} trials, so all {search.num_trials} are: lower that, or raise "
            "search.num_trials"
        )


def _small_population(search: SearchSettings) -> Iterator[str]:
    most = search.max_concurrent
    if search.scheduler.wants_all_at_once and most is not None and most < search.num_trials:
        yield (
            f"search.scheduler {search.scheduler.name} compares the {most} trials of "
            f"search.max_concurrent that run side by side, not all {search.num_trials}"
        )


def _idle_budget(search: SearchSettings, max_steps: int) -> Iterator[str]:
    budget = search.budget
    if budget.unit == "steps" and budget.per_trial is not None and budget.per_trial > max_steps:
        yield (
            f"search.budget.per_trial={budget.per_trial:g} steps end no trial, since the longest "
            f"has {max_steps}: lower it, or leave it out"
        )


def _confirms_little(search: SearchSettings) -> Iterator[str]:
    """Repeats that tell less than they cost: no fault, since more may be added to a sweep."""
    confirm = search.confirm
    if confirm is None:
        return
    if confirm.top > search.num_trials:
        yield (
            f"search.confirm trains the best {confirm.top} trials again, but there are "
            f"{search.num_trials}, so that all are: lower search.confirm.top, or raise "
            "search.num_trials"
        )
    if confirm.top == 1:
        yield (
            "search.confirm.top=1 repeats the best trial alone, with none to compare it with: "
            "write search.confirm.top=2 or more"
        )
    if confirm.seeds == FEWEST_SEEDS:
        yield (
            f"search.confirm.seeds={confirm.seeds} gives intervals that tell next to nothing: "
            "Student's at 95 % is 12.7 standard errors to each side with two seeds, 4.3 with "
            "three, 2.8 with five: write search.confirm.seeds=3 or more"
        )
