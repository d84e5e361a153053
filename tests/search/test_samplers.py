"""Samplers: what they propose, and that they propose it again for the same seed."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter

from raytune_glm.search import Sampler

SAMPLERS: list[dict[str, Any]] = [{"name": "tpe"}, {"name": "random"}]


def proposals(written: dict[str, Any], *, num: int = 20, before: int = 0) -> list[float]:
    """Let a sampler minimize the distance to 0.3, one trial at a time."""
    settings: Any = TypeAdapter(Sampler).validate_python(written)
    study = optuna.create_study(sampler=settings.build(num_trials_before=before))
    for _ in range(num):
        trial = study.ask()
        study.tell(trial, abs(trial.suggest_float("x", 0, 1) - 0.3))
    return [trial.params["x"] for trial in study.trials]


@pytest.mark.parametrize("written", SAMPLERS)
def test_one_seed_proposes_one_sequence(written: dict[str, Any]) -> None:
    assert proposals(written) == proposals(written)
    assert proposals(written) != proposals({**written, "seed": 7})


@pytest.mark.parametrize("written", SAMPLERS)
def test_a_resumed_sweep_does_not_draw_its_first_proposals_again(written: dict[str, Any]) -> None:
    assert not set(proposals(written, num=4)) & set(proposals(written, num=4, before=4))


def test_tpe_is_random_at_first_and_then_comes_closer() -> None:
    found = proposals({"name": "tpe", "num_startup_trials": 10}, num=40)
    distances = [abs(x - 0.3) for x in found]
    assert sum(distances[-15:]) / 15 < 0.5 * sum(distances[:10]) / 10
