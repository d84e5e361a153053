"""The model against the original for whoever has no `../shared`: see `vectors/make.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytune_glm.models import load_model

FOLDER = Path(__file__).parent / "vectors" / "chatglm2"


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(FOLDER)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "cases.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    return json.loads((FOLDER / "numbers.json").read_text())


def inputs(tensors: dict[str, torch.Tensor], case: str) -> dict[str, torch.Tensor]:
    names = ("input_ids", "attention_mask", "position_ids", "labels")
    return {name: tensors[f"{case}/{name}"] for name in names if f"{case}/{name}" in tensors}


@pytest.mark.parametrize("case", ["batch_left_pad_labels", "batch_train_collator"])
def test_hidden_states_are_the_originals(case: str, model: Any, tensors: Any) -> None:
    given = inputs(tensors, case)
    del given["labels"]
    with torch.no_grad():
        ours = model.transformer(**given).last_hidden_state
    valid = tensors[f"{case}/valid"].bool()
    assert (ours - tensors[f"{case}/final_hidden"])[valid].abs().max() < 3e-5


def test_loss_and_gradients_are_the_originals(model: Any, tensors: Any, numbers: Any) -> None:
    loss = model(**inputs(tensors, "batch_left_pad_labels")).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(numbers["loss"], abs=1e-5)
    for name, parameter in model.named_parameters():
        l2 = float(parameter.grad.norm())
        assert l2 == pytest.approx(numbers["gradient_l2"][name], rel=1e-4, abs=1e-4), name
    model.zero_grad()


def test_generated_ids_are_the_originals(model: Any, tensors: Any, numbers: Any) -> None:
    given = inputs(tensors, "gen_batch_left_pad")
    sequences = model.generate(
        **given, max_new_tokens=16, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    assert sequences.tolist() == numbers["sequences"]
