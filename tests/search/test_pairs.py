"""Settings of a search that do not go together are refused, with the reason and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_glm.config.faults import validate
from raytune_glm.errors import ConfigError
from raytune_glm.search import SearchSettings

RATE = {"train.learning_rate": {"log_range": [1e-4, 1e-2]}}
TWO = {**RATE, "train.weight_decay": {"range": [0, 0.1]}}
CHOICES = {"method.rank": {"choice": [4, 8]}, "train.learning_rate": {"choice": [1e-3, 1e-2]}}
METHODS = {
    "method": {"one_of": {"lora": {"rank": {"choice": [4, 8]}}, "full": {}}},
    "train.learning_rate": {"choice": [1e-3, 1e-2]},
}
ASHA = {"name": "asha", "grace_period_steps": 10}
PBT = {"name": "pbt", "interval_steps": 10}


def test_what_goes_together_is_taken() -> None:
    for search in (
        {"space": METHODS, "num_trials": 6, "scheduler": ASHA, "quota": {"trials": 3}},
        {"space": METHODS, "num_trials": 6, "sampler": {"name": "grid"}},
        {"space": TWO, "sampler": {"name": "cmaes"}},
        {"space": TWO, "sampler": {"name": "gp"}, "objectives": ["seconds"]},
        {"space": RATE, "sampler": {"name": "bohb"}, "scheduler": ASHA},
        {"space": CHOICES, "num_trials": 4, "scheduler": PBT, "sampler": {"name": "random"}},
        {"space": METHODS, "num_trials": 9, "budget": {"per_variant": 600}},
        {"space": METHODS, "num_trials": 9, "scheduler": ASHA, "quota": {"complete": 1}},
        {"space": RATE, "num_trials": 4, "scheduler": PBT, "max_concurrent": 4},
    ):
        SearchSettings.model_validate(search)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (
            {"sampler": {"name": "tpee"}},
            "must be one of 'forecast', 'tpe', 'bohb', 'cmaes', 'gp', 'nsga2'",
        ),
        (
            {"space": CHOICES, "num_trials": 4, "sampler": {"name": "grid"}, "scheduler": PBT},
            "pbt must not have search.sampler grid: its copies change settings",
        ),
        (
            {"space": RATE, "num_trials": 4, "sampler": {"name": "grid"}},
            "search.space.train.learning_rate: has infinitely many values: write a `choice` of "
            "some of them, or a `range` with a `step`",
        ),
        (
            {"space": {"method.dropout": {"range": [0, 0.1]}}, "sampler": {"name": "grid"}},
            "infinitely many values: give it a `step`, or write a `choice`",
        ),
        (
            {"space": CHOICES, "num_trials": 5, "sampler": {"name": "grid"}},
            "num_trials must be at most 4 for search.sampler grid",
        ),
        (
            {
                "space": CHOICES,
                "sampler": {"name": "grid"},
                "start_with": [{"method.rank": 4}],
            },
            "search.start_with must be left out for search.sampler grid",
        ),
        (
            {"space": CHOICES, "sampler": {"name": "cmaes"}},
            "cmaes must have two settings on a scale",
        ),
        (
            {"space": TWO, "sampler": {"name": "cmaes"}, "objectives": ["seconds"]},
            "cmaes must have one objective",
        ),
        (
            {"space": TWO, "sampler": {"name": "cmaes"}, "limits": {"seconds": 60}},
            "cmaes must have no search.limits",
        ),
        (
            {"space": METHODS, "sampler": {"name": "gp"}},
            "gp must have a space without one_of, since",
        ),
        (
            {"space": TWO, "sampler": {"name": "nsga2"}, "scheduler": ASHA},
            "nsga2 must have search.scheduler fifo, since it learns from complete trials only",
        ),
        (
            {"space": TWO, "sampler": {"name": "bohb"}},
            "bohb must have a scheduler that stops trials",
        ),
        (
            {"space": {"method.rank": {"choice": [4, 8]}}, "num_trials": 8, "scheduler": PBT},
            "pbt must have a setting that a trial can change in its middle",
        ),
        (
            {"space": RATE, "num_trials": 3, "scheduler": PBT},
            "the population, must be at least 4",
        ),
        (
            {"space": RATE, "num_trials": 4, "scheduler": PBT, "objectives": ["seconds"]},
            "pbt must have one objective",
        ),
        (
            {"metric": "triple_f1", "objectives": ["triple_f1"]},
            "lists triple_f1 itself: leave it out there",
        ),
        ({"objectives": ["speed"]}, "must be one of eval_loss, triple_f1, exact_match, train"),
        ({"limits": {"memory": 1}}, "must be one of eval_loss, triple_f1, exact_match, train"),
        ({"limits": {"triple_f1": 1.5}}, "must be at most 1, or no trial can meet it"),
        ({"limits": {"peak_memory_bytes": 0}}, "must be above 0, or no trial can meet it"),
        (
            {"scheduler": ASHA, "budget": {"unit": "device_seconds", "per_trial": 60}},
            "asha must count in the unit of search.budget, which is device_seconds, but got "
            "grace_period_steps=10: give it a period in device_seconds",
        ),
        ({"budget": {"unit": "device_seconds"}}, "`per_trial` must be given for unit device_sec"),
        (
            {"scheduler": ASHA, "budget": {"per_trial": 10}},
            "must have a grace period below search.budget.per_trial, or it stops nobody, but got "
            "grace_period_steps=10 and per_trial=10 steps",
        ),
        (
            {"scheduler": {"name": "asha"}},
            "write the optimizer steps that every trial may take, grace_period_steps: 40 say, or",
        ),
        ({"quota": {"trials": 2}}, "search.quota.trials must have one one_of in search.space"),
        (
            {"space": METHODS, "num_trials": 5, "quota": {"trials": 3}},
            "num_trials must be at least 6 for search.quota",
        ),
        (
            {"space": METHODS, "num_trials": 5, "quota": {"complete": 1}},
            "search.quota.complete must be left out for search.scheduler fifo",
        ),
        (
            {"space": CHOICES, "start_with": [{"method.rank": 5}]},
            "start_with.0: method.rank: must be one of [4, 8], but got 5",
        ),
        (
            {"space": METHODS, "start_with": [{"method": "full", "method.rank": 4}]},
            "start_with.0: method.rank: must be searched by such a trial, but is one of lora, not "
            "of full: leave it out",
        ),
        (
            {"space": METHODS, "start_with": [{"method.rank": 4}]},
            "method.rank: must be searched by such a trial, but its variant is not named: add "
            "method: lora",
        ),
        (
            {"space": CHOICES, "start_with": [{"rank": 4}]},
            "start_with.0: rank: must be searched by such a trial, but is not in search.space: did "
            "you mean method.rank?",
        ),
        (
            {"space": METHODS, "start_with": [{"qqqq": 4}]},
            "is not in search.space: it has method, train.learning_rate, method.rank",
        ),
        (
            {"space": RATE, "start_with": [{"train.learning_rate": 1.0}]},
            "train.learning_rate: must be a number in [0.0001, 0.01], but got 1.0",
        ),
        (
            {"space": RATE, "start_with": [{}, {}]},
            "num_trials must be at least the number of settings in search.start_with",
        ),
        (
            {"space": RATE, "num_trials": 8, "scheduler": PBT, "max_concurrent": 3},
            "search.max_concurrent must be at least 4 for search.scheduler pbt with quantile=0.25",
        ),
        (
            {
                "space": METHODS,
                "num_trials": 9,
                "scheduler": ASHA,
                "quota": {"trials": 1, "complete": 2},
            },
            "search.quota.complete must be at most search.quota.trials, of which they are, but got "
            "complete=2 with trials=1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(search: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(SearchSettings, search, source="the search")
    assert told in str(refused.value)
