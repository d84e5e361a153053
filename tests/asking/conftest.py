"""A results folder as a sweep leaves it, with adapters on the shipped model that change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raytune_glm.config import RunConfig
from raytune_glm.methods import LoRA
from raytune_glm.models import inspect_folder, load_model
from tests.shipped import data


def write_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """Write a LoRA adapter as if it had been trained."""
    method = LoRA(rank=4, target_modules="all")
    torch.manual_seed(seed)
    model: Any = method.apply(load_model(base), inspect_folder(base).family)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    drawn = {n: torch.randn_like(p) * 0.05 if ".lora_B." in n else p for n, p in weights.items()}
    method.save(model, drawn, folder)
    return folder


@pytest.fixture(scope="session")
def results(tiny_glm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trials, the second of which won. Read-only."""
    root = tmp_path_factory.mktemp("results") / "sweep"
    run = RunConfig.model_validate(
        {
            "model": {"path": str(tiny_glm)},
            "data": data("train", "test", max_length=192, max_source_length=120),
            "method": {"name": "lora", "rank": 4, "target_modules": "all"},
            "train": {"max_steps": 8, "eval_batch_size": 3, "max_new_tokens": 6},
        }
    ).model_dump(mode="json")
    rows = []
    for number, steps in enumerate(((4, 8), (8, 4))):
        trial = root / "trials" / f"000{number}"
        for step in steps:
            adapter = trial / "checkpoint" / "adapter" / f"step-{step:06d}"
            write_adapter(tiny_glm, adapter, seed=10 * number + step)
        adapters = [f"adapter/step-{step:06d}" for step in steps]
        index = {"state": None, "adapters": adapters}
        (trial / "checkpoint" / "index.json").write_text(json.dumps(index))
        (trial / "config.yaml").write_text(yaml.safe_dump(run))
        rows.append({"id": trial.name, "best_step": 8})
    (root / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "sweep.yaml").write_text(yaml.safe_dump(run))
    (root / "best.yaml").write_text(yaml.safe_dump({**run, "search": {"metric": "triple_f1"}}))
    write_adapter(tiny_glm, root / "best", seed=18)
    return root
