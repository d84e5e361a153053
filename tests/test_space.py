"""What a search space takes, what its corners are, and what it asks of Optuna."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import TypeAdapter, ValidationError

from raytune_glm import space as spaces


def read(written: dict[str, Any]) -> spaces.Space:
    space: spaces.Space = TypeAdapter(spaces.Space).validate_python(written)
    return space


def ask(written: dict[str, Any], *, seed: int = 0) -> tuple[dict[str, Any], optuna.Trial]:
    """Have Optuna choose, and give what the space makes of it beside Optuna's own record."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return spaces.choose(read(written), trial), trial


@pytest.mark.parametrize(
    ("dimension", "distribution"),
    [
        ({"choice": [4, 8, 16]}, CategoricalDistribution((4, 8, 16))),
        ({"choice": ["linear", None]}, CategoricalDistribution(("linear", None))),
        ({"range": [0, 0.5]}, FloatDistribution(0.0, 0.5)),
        ({"range": [0, 1], "step": 0.1}, FloatDistribution(0.0, 1.0, step=0.1)),
        ({"log_range": [1e-5, 1e-2]}, FloatDistribution(1e-5, 1e-2, log=True)),
        ({"int_range": [2, 64]}, IntDistribution(2, 64)),
        ({"int_range": [2, 64], "log": True}, IntDistribution(2, 64, log=True)),
        ({"int_range": [8, 64], "step": 8}, IntDistribution(8, 64, step=8)),
    ],
)
def test_a_dimension_is_the_distribution_that_it_says(
    dimension: dict[str, Any], distribution: optuna.distributions.BaseDistribution
) -> None:
    chosen, trial = ask({"a.b": dimension})
    assert trial.distributions == {"a.b": distribution}
    assert chosen == trial.params


def test_a_choice_among_lists_gives_the_list_and_stores_its_text() -> None:
    values = ["all", ["q_proj", "v_proj"], None]
    seen = []
    for seed in range(20):
        chosen, trial = ask({"method.target_modules": {"choice": values}}, seed=seed)
        assert trial.params["method.target_modules"] == str(chosen["method.target_modules"])
        seen.append(chosen["method.target_modules"])
    assert all(value in seen for value in values)


VARIANTS = {
    "method": {
        "one_of": {
            "lora": {"rank": {"int_range": [2, 8]}, "alpha": {"choice": [16, 32]}},
            "freeze": {"rank": {"int_range": [1, 4]}},
            "full": {},
        }
    },
    "train.learning_rate": {"log_range": [1e-4, 1e-2]},
}


def test_only_the_chosen_variants_settings_are_searched_under_names_of_its_own() -> None:
    names = {
        "lora": {"method[lora].rank", "method[lora].alpha"},
        "freeze": {"method[freeze].rank"},
        "full": set(),
    }
    seen = set()
    for seed in range(20):
        chosen, trial = ask(VARIANTS, seed=seed)
        variant = chosen["method"]["name"]
        assert set(trial.params) == {"method.name", "train.learning_rate"} | names[variant]
        assert chosen.get("method.rank") == trial.params.get(f"method[{variant}].rank")
        seen.add(variant)
    assert seen == set(names)


def test_the_variant_stands_before_its_settings_so_that_it_replaces_the_section_first() -> None:
    for seed in range(5):
        assert next(iter(ask(VARIANTS, seed=seed)[0])) == "method"


def test_one_study_takes_all_variants() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    for _ in range(12):
        trial = study.ask()
        spaces.choose(read(VARIANTS), trial)
        study.tell(trial, trial.params["train.learning_rate"])
    assert len(study.trials) == 12


def test_corners_are_all_values_of_choices_and_both_ends_of_ranges() -> None:
    found = list(
        spaces.corners(
            read(
                {
                    "a": {"choice": [1, 2, 3]},
                    "b": {"range": [0, 1]},
                    "c": {"log_range": [1e-3, 1e-1]},
                    "d": {"int_range": [2, 9]},
                }
            )
        )
    )
    expected = itertools.product([1, 2, 3], [0.0, 1.0], [1e-3, 1e-1], [2, 9])
    assert found == [dict(zip("abcd", values, strict=True)) for values in expected]


def test_corners_of_variants_are_each_with_its_own_settings() -> None:
    found = list(spaces.corners(read({"method": VARIANTS["method"]})))
    assert found == [
        *(
            {"method": {"name": "lora"}, "method.rank": rank, "method.alpha": alpha}
            for rank in (2, 8)
            for alpha in (16, 32)
        ),
        {"method": {"name": "freeze"}, "method.rank": 1},
        {"method": {"name": "freeze"}, "method.rank": 4},
        {"method": {"name": "full"}},
    ]


def test_an_empty_space_has_one_corner_the_file_as_it_is() -> None:
    assert list(spaces.corners({})) == [{}]


def test_corners_of_a_large_space_have_every_pair_of_values() -> None:
    names = [f"x{place}" for place in range(10)]
    found = list(spaces.corners(read({name: {"choice": [1, 2, 3]} for name in names})))
    assert len(found) == 45 * 9 < 3**10
    for one, other in itertools.combinations(names, 2):
        pairs = {(corner[one], corner[other]) for corner in found}
        assert pairs == set(itertools.product([1, 2, 3], repeat=2))


def test_a_null_takes_a_dimension_out() -> None:
    assert list(read({"a": None, "b": {"choice": [1]}})) == ["b"]


@pytest.mark.parametrize(
    ("dimension", "problem"),
    [
        (8, r"exactly one of the keys choice, .*, one_of, but got 8; write {choice"),
        ([4, 8], r"but got \[4, 8\]"),
        ({}, "exactly one of the keys"),
        ({"rang": [1, 2]}, "but got {'rang'"),
        ({"choice": [1], "range": [1, 2]}, "exactly one of the keys"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": 3}, "valid tuple"),
        ({"choice": [8, 4, 8]}, r"must not list a value twice, but got \[8, 4, 8\]"),
        ({"choice": [1, True]}, "must not list a value twice"),
        ({"choice": [["q"], ["q"]]}, "must not list a value twice"),
        ({"choice": [1], "step": 2}, "`choice` takes the keys choice, but got 'step'"),
        ({"range": [0, 1], "log": True}, "`range` takes the keys range, step, but got 'log'"),
        ({"range": [1]}, "Field required"),
        ({"range": [2, 1]}, r"`range` must be \[low, high\] with low < high, but got \[2.0, 1.0\]"),
        ({"range": [1, 1]}, "with low < high"),
        ({"range": [0, float("inf")]}, "finite"),
        ({"range": [0, 1], "step": 0}, "greater than 0"),
        ({"range": [0, 1], "step": 0.3}, r"`step` must divide .* got step=0.3 for \[0.0, 1.0\]"),
        ({"log_range": [0, 1]}, "must start above 0, but got low=0.0"),
        ({"log_range": [1e-2, 1e-4]}, "with low < high"),
        ({"int_range": [1.5, 3]}, "valid integer"),
        ({"int_range": [9, 2]}, r"but got \[9, 2\]"),
        ({"int_range": [0, 8], "log": True}, "must start above 0, but got low=0"),
        ({"int_range": [2, 8], "log": True, "step": 2}, "`step` must be 1 .* got step=2"),
        ({"int_range": [2, 9], "step": 4}, "`step` must divide the width of `int_range`"),
        ({"one_of": {}}, "at least 1 item"),
        ({"one_of": {"lora": {"rank": 8}}}, "exactly one of the keys .*, but got 8"),
        ({"one_of": {"lora": {"rank": {"one_of": {}}}}}, "exactly one of the keys"),
        ({"one_of": {"lora": {"rank": {"int_range": [8, 2]}}}}, r"but got \[8, 2\]"),
    ],
)
def test_a_dimension_that_makes_no_sense_is_refused(dimension: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        read({"a": dimension})
