"""`data.retain`: what a tuned model has forgotten, solo and packed, against a plain reckoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer import lines, run_trials

from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import RunConfig
from raytune_glm.data import encode_splits
from raytune_glm.models import inspect_folder, load_model, load_tokenizer
from raytune_glm.packing.messages import Attach, Close
from raytune_glm.packing.runner import PackRunner

GENERAL = [
    {"instruction": "How many days has a week?", "output": "A week has seven days."},
    {"instruction": "请说出一种颜色。", "output": "红色。"},
    {"instruction": "Name the month after March.", "output": "April comes after March."},
]


@pytest.fixture
def retaining(run: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A short run that is to retain some rows."""
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in GENERAL), encoding="utf-8")
    run["data"] |= {"retain": str(file), "max_retain_rows": 2}
    run["train"] |= {"max_steps": 8, "eval_every_steps": 4, "learning_rate": 5e-3}
    return run


def loss_on_general_rows(model: Any, config: RunConfig, cache: Path) -> float:
    """Mean cross entropy over the label tokens of the rows, each alone, in plain PyTorch."""
    path = config.model.path
    rows = encode_splits(
        config.data,
        family=inspect_folder(path).family,
        tokenizer=load_tokenizer(path),
        cache_dir=cache,
    ).retain
    assert rows is not None
    assert len(rows) == 2
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        losses += torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=-100, reduction="none"
        )[labels != -100].tolist()
    return sum(losses) / len(losses)


@torch.inference_mode()
def test_forgetting_is_the_rise_of_the_loss_over_the_untrained_base(
    retaining: dict[str, Any], tmp_path: Path
) -> None:
    config, cache = RunConfig.model_validate(retaining), tmp_path / "data"
    solo, packed = tmp_path / "solo", tmp_path / "packed"
    trial = {"run": retaining, "folder": str(solo)}
    with torch.inference_mode(mode=False):
        run_trials({"trials": [trial], "data_cache": str(cache), "metric": "eval_loss"}, 0)
        told: list[dict[str, Any]] = []
        runner = PackRunner(torch.device("cpu"), pack_size=1)
        runner.inbox.put(
            Attach(
                key=0,
                run=config,
                folder=packed,
                metric="eval_loss",
                data_cache=cache,
                report=lambda report: (
                    runner.inbox.put(Close()) if "over" in report else told.append(report)
                ),
            )
        )
        runner.run()
    base = loss_on_general_rows(load_model(config.model.path), config, cache)
    for reports, folder in ((lines(solo / "reports.jsonl"), solo), (told, packed)):
        best = min(reports, key=lambda report: report["eval_loss"])
        adapter = best_adapter(folder / "checkpoint", step=best["step"])
        assert adapter is not None
        tuned = config.method.load(load_model(config.model.path), adapter)
        after = loss_on_general_rows(tuned.eval(), config, cache)
        assert abs(after - base) > 0.01, "the training was long enough to change what is known"
        assert best["forgetting"] == pytest.approx(after - base, abs=1e-3)


def test_workers_that_never_hold_the_whole_base_cannot_tell(retaining: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"deepspeed\.zero_stage must be at most 2 with data\.ret"):
        RunConfig.model_validate(retaining | {"deepspeed": {"zero_stage": 3}})
