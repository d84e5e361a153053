"""The sweep files that the project ships fit the model and the rows that it ships."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raytune_glm.config import load_sweep
from raytune_glm.config.check import check_sweep
from raytune_glm.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_is_free_of_faults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(ROOT / "sweeps" / f"{name}.yaml")
    assert sweep.run.name == name
    assert check_sweep(sweep).trainable[0] > 0


def test_every_method_has_a_sweep_and_a_place_in_the_one_over_all() -> None:
    assert set(METHODS) <= set(SWEEPS)
    methods = load_sweep(Path(os.path.relpath(ROOT / "sweeps/methods.yaml")))
    assert set(methods.search.space["method"].one_of) == set(METHODS)  # type: ignore[union-attr]
