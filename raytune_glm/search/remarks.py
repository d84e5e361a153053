"""What of a search is no fault, and what the user may not have meant. Read next: `settings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raytune_glm.search.settings import SearchSettings


def remark_search(search: SearchSettings) -> Iterator[str]:
    """Tell what a search does otherwise than its sampler and scheduler promise."""
    yield from _never_learns(search)
    yield from _small_population(search)
    yield from _few_to_confirm(search)


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


def _few_to_confirm(search: SearchSettings) -> Iterator[str]:
    # No fault: trials may be added to a sweep that runs.
    if search.confirm is not None and search.confirm.top > search.num_trials:
        yield (
            f"search.confirm trains the best {search.confirm.top} trials again, but there are "
            f"{search.num_trials}, so that all are: lower search.confirm.top, or raise "
            "search.num_trials"
        )
