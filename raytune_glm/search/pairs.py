"""Settings of a search that do not go together, each with the reason. Read next: `settings`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raytune_glm.search.samplers import BOHBSettings, CMAESSettings, GridSettings
from raytune_glm.search.schedulers import PBTSettings
from raytune_glm.space import Choice, OneOf, Space, grid

if TYPE_CHECKING:
    from raytune_glm.search.settings import SearchSettings

CHANGEABLE = ("learning_rate", "weight_decay", "betas", "adam_epsilon", "max_grad_norm")
"""Settings of `train` that a trial can take over in its middle: no size of a weight, no order of
rows, no number of steps depends on them."""


def changeable(space: Space) -> list[str]:
    """The dotted paths of a space that PBT may change in a copy of a trial."""
    return [path for path in space if path in {f"train.{name}" for name in CHANGEABLE}]


def variants(space: Space) -> dict[str, list[str]]:
    """Sections with a `one_of` -> names of the variants."""
    return {
        path: list(dimension.one_of)
        for path, dimension in space.items()
        if isinstance(dimension, OneOf)
    }


def bad_pairs(search: SearchSettings) -> list[str]:
    """What of a search cannot work, or would have no effect."""
    rules = (_objectives, _sampler, _grid, _scheduler, _population, _variants)
    return [fault for rule in rules for fault in rule(search)]


def _objectives(search: SearchSettings) -> Iterator[str]:
    name = search.sampler.name
    if search.metric in search.objectives:
        yield (
            "search.objectives must hold what is traded against search.metric, but lists "
            f"{search.metric} itself: leave it out there"
        )
    if search.objectives and not search.sampler.takes_objectives:
        yield (
            f"search.sampler {name} must have one objective, since it proposes for a single score, "
            f"but got objectives={list(search.objectives)}: use tpe, gp or nsga2"
        )
    if search.limits and not search.sampler.takes_limits:
        yield (
            f"search.sampler {name} must have no search.limits, since it cannot learn from them, "
            f"but got limits={search.limits}: use tpe, bohb, gp or nsga2"
        )


def _sampler(search: SearchSettings) -> Iterator[str]:
    sampler, name = search.sampler, search.sampler.name
    if not sampler.learns_from_stopped and search.scheduler.stops:
        yield (
            f"search.sampler {name} must have search.scheduler fifo, since it learns from complete "
            f"trials only, but got {search.scheduler.name}, which leaves few of them: use tpe or "
            "bohb"
        )
    conditional = variants(search.space)
    if conditional and not sampler.takes_conditions:
        yield (
            f"search.sampler {name} must have a space without one_of, since it searches only "
            f"settings that all trials have, but got one_of at {', '.join(conditional)}: use tpe"
        )
    if isinstance(sampler, CMAESSettings):
        scales = [d for d in search.space.values() if not isinstance(d, Choice | OneOf)]
        if len(scales) < 2:
            yield (
                "search.sampler cmaes must have two settings on a scale (range, log_range, "
                f"int_range), since it learns how they go together, but got {len(scales)}: use tpe"
            )
    if isinstance(sampler, BOHBSettings) and not search.scheduler.stops:
        yield (
            "search.sampler bohb must have a scheduler that stops trials, since it compares them "
            "where they were stopped, but got fifo: use asha or hyperband, or sampler tpe"
        )


def _grid(search: SearchSettings) -> Iterator[str]:
    if not isinstance(search.sampler, GridSettings):
        return
    try:
        size = len(grid(search.space))
    except ValueError as error:
        yield f"search.sampler grid must have a space that can be listed: {error}"
        return
    if search.num_trials > size:
        yield (
            f"search.num_trials must be at most {size} for search.sampler grid, the points of "
            f"search.space, but got num_trials={search.num_trials}"
        )
    for setting in ("start_with", "warm_start"):
        if getattr(search, setting):
            yield (
                f"search.{setting} must be left out for search.sampler grid, which tries every "
                "point and learns nothing, but is given: use tpe"
            )


def _scheduler(search: SearchSettings) -> Iterator[str]:
    scheduler, budget = search.scheduler, search.budget
    if scheduler.unit is not None and scheduler.unit != budget.unit:
        yield (
            f"search.scheduler {scheduler.name} must count in the unit of search.budget, which is "
            f"{budget.unit}, but got {scheduler.period}: give it a period in {budget.unit}, where "
            f"it takes one, or write search.budget.unit={scheduler.unit}"
        )
    grace = getattr(scheduler, "grace", None)
    if grace is not None and budget.per_trial is not None and grace >= budget.per_trial:
        yield (
            f"search.scheduler {scheduler.name} must have a grace period below "
            f"search.budget.per_trial, or it stops nobody, but got {scheduler.period} and "
            f"per_trial={budget.per_trial:g} {budget.unit}: lower the one or raise the other"
        )


def _population(search: SearchSettings) -> Iterator[str]:
    scheduler, name = search.scheduler, search.scheduler.name
    if not isinstance(scheduler, PBTSettings):
        return
    if isinstance(search.sampler, GridSettings):
        yield (
            f"search.scheduler {name} must not have search.sampler grid: its copies change "
            "settings to values beside the grid, and a point whose trial is replaced is never "
            "finished; use random or tpe"
        )
    if not changeable(search.space):
        yield (
            f"search.scheduler {name} must have a setting that a trial can change in its middle "
            f"in search.space, one of {', '.join('train.' + name for name in CHANGEABLE)}, but "
            f"got {', '.join(search.space) or 'an empty space'}"
        )
    smallest = math.ceil(1 / scheduler.quantile)
    if search.num_trials < smallest:
        yield (
            f"search.num_trials, the population, must be at least {smallest} for "
            f"search.scheduler {name} with quantile={scheduler.quantile:g}, or nobody is "
            f"among the worst, but got num_trials={search.num_trials}"
        )
    if search.max_concurrent is not None and search.max_concurrent < smallest:
        yield (
            f"search.max_concurrent must be at least {smallest} for search.scheduler {name} with "
            f"quantile={scheduler.quantile:g}, which compares trials that run side by side, but "
            f"got max_concurrent={search.max_concurrent}: leave it out, and all run at once"
        )
    if search.objectives:
        yield f"search.scheduler {name} must have one objective, but got search.objectives"


def _variants(search: SearchSettings) -> Iterator[str]:
    given = {
        "quota.trials": search.quota.trials,
        "quota.complete": search.quota.complete,
        "budget.per_variant": search.budget.per_variant,
    }
    wanted = [name for name, value in given.items() if value]
    if not wanted:
        return
    sections = variants(search.space)
    named = ", ".join(f"search.{name}" for name in wanted)
    if len(sections) != 1:
        yield (
            f"{named} must have one one_of in search.space to count variants of, but got "
            f"{len(sections)}: write search.space.method: {{one_of: ...}}"
        )
        return
    if isinstance(search.sampler, GridSettings):
        yield f"{named} must be left out for search.sampler grid, which tries every point"
    if 0 < search.quota.trials < search.quota.complete:
        yield (
            "search.quota.complete must be at most search.quota.trials, of which they are, but got "
            f"complete={search.quota.complete} with trials={search.quota.trials}: raise trials"
        )
    if search.quota.complete and isinstance(search.scheduler, PBTSettings):
        yield (
            f"search.quota.complete must be left out for search.scheduler {search.scheduler.name}, "
            "which fills the place of each trial that it stops"
        )
    if search.quota.complete and not search.scheduler.stops:
        yield "search.quota.complete must be left out for search.scheduler fifo: all are completed"
    [names] = sections.values()
    least = max(search.quota.trials, search.quota.complete) * len(names)
    if least > search.num_trials:
        yield (
            f"search.num_trials must be at least {least} for search.quota, that of {len(names)} "
            f"variants together, but got num_trials={search.num_trials}"
        )
