"""Noise on embeddings: as the paper says, in training alone, the same from a seed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from raytune_glm.engine.neftune import add_noise
from tests.methods.conftest import Base, bases, batch
from tests.methods.test_contract import applied

__all__ = ["bases"]

ALPHA = 5.0


def noise(base: Base, example: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a forward in training adds to the embeddings of the text."""
    _, model = applied(base, example)
    add_noise(model, ALPHA)
    seen: list[torch.Tensor] = []
    words: Any = model.get_input_embeddings()
    words.register_forward_hook(lambda module, given, out: seen.append(out - module.weight[given]))
    # A hook sees what the hook before it made, and the weights what went in.
    model.train()
    model(**inputs, use_cache=False)
    return seen[-1].detach()


@pytest.mark.parametrize(("name", "example"), [("chatglm3", "lora"), ("llama", "prompt_tuning")])
def test_noise_is_uniform_within_the_papers_bound_of_each_row(
    bases: dict[str, Base], name: str, example: str
) -> None:
    inputs = batch()
    added = noise(bases[name], example, inputs)
    for row, mask in zip(added, inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        bound = ALPHA / math.sqrt(length * row.shape[-1])
        own = row[mask.bool()]
        assert 0.97 * bound < own.abs().max() <= bound * 1.0001
        assert own.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not row[~mask.bool()].any()


def test_rows_that_stand_one_behind_the_other_have_each_its_own_bound(
    bases: dict[str, Base],
) -> None:
    ids = torch.arange(10, 30)[None]
    positions = torch.cat((torch.arange(4), torch.arange(16)))[None]
    [row] = noise(
        bases["llama"], "lora", {"input_ids": ids, "position_ids": positions, "labels": ids}
    )
    for own in (row[:4], row[4:]):
        bound = ALPHA / math.sqrt(own.numel())
        assert 0.97 * bound < own.abs().max() <= bound * 1.0001


def test_a_seed_gives_the_same_noise_and_evaluation_has_none(bases: dict[str, Base]) -> None:
    losses = []
    for _ in range(2):
        _, model = applied(bases["chatglm"], "lora")
        plain = float(model.eval()(**batch()).loss.detach())
        add_noise(model, ALPHA)
        assert float(model(**batch()).loss.detach()) == plain
        torch.manual_seed(17)
        losses.append(float(model.train()(**batch(), use_cache=False).loss.detach()))
    assert losses[0] == losses[1] != plain
