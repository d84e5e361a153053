"""Freeze: what trains, in the published figures and by whole parts of names."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_glm.errors import ConfigError
from raytune_glm.methods import Freeze
from raytune_glm.models import FAMILIES
from tests.methods.conftest import Base


def chatglm_6b() -> tuple[Any, Any]:
    """ChatGLM-6B as of the published figures, whose vocabulary still had 20,000 image tokens."""
    family = FAMILIES["chatglm"]
    return family.shape({**family.published["chatglm-6b"], "vocab_size": 150528}), family


def test_the_last_five_layers_of_chatglm_6b_are_the_published_share() -> None:
    # ChatGLM-Finetuning v0.1: 16.10 % of 6.255 billion parameters.
    shape, family = chatglm_6b()
    count = Freeze(num_trainable_layers=5).trainable_parameters(shape, family)
    assert round(shape.total_parameters / 1e9, 3) == 6.255
    assert round(100 * count / shape.total_parameters, 2) == 16.10


def test_the_published_flag_is_the_same_as_the_number_of_layers() -> None:
    shape, family = chatglm_6b()
    flag = Freeze(module_patterns="layers.27.,layers.26.,layers.25.,layers.24.")  # type: ignore[arg-type]
    assert flag.trainable_parameters(shape, family) == Freeze(
        num_trainable_layers=4
    ).trainable_parameters(shape, family)


def test_a_pattern_is_a_whole_part_of_a_name() -> None:
    shape, family = chatglm_6b()
    one, all_layers = (
        Freeze(module_patterns=patterns).trainable_parameters(shape, family)
        for patterns in (("layers.2",), ("layers",))
    )
    assert 28 * one == all_layers


def test_the_last_layers_train_and_no_other(base: Base) -> None:
    model = Freeze(num_trainable_layers=1).apply(base.load(), base.family)
    path = f"{base.family.layers_path}.2."
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(path), name


def test_more_layers_than_there_are_is_refused(base: Base) -> None:
    Freeze(num_trainable_layers=3).check(base.shape, base.family)
    with pytest.raises(ConfigError, match=r"num_trainable_layers must be at most 3, .* got .*=4"):
        Freeze(num_trainable_layers=4).check(base.shape, base.family)


@pytest.mark.parametrize("pattern", ["layers.3", "layer", "ayers.1", "query"])
def test_a_pattern_that_matches_nothing_is_refused(base: Base, pattern: str) -> None:
    method = Freeze(module_patterns=("mlp", pattern))
    with pytest.raises(ConfigError, match=f"'{pattern}' matches nothing in this .* model: write "):
        method.check(base.shape, base.family)


@pytest.mark.parametrize(
    "settings", [{}, {"num_trainable_layers": 1, "module_patterns": ["layers.1"]}]
)
def test_exactly_one_way_to_say_what_trains_is_taken(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of `num_trainable_layers` and `module_patt"):
        Freeze(**settings)
