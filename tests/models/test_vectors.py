"""The model against the original for whoever has no `../shared`: see `vectors/make.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytune_glm.models import load_model, register
from raytune_glm.models.chatglm.packed import unpack

VECTORS = Path(__file__).parent / "vectors"
TRAINING_CASES = [
    ("chatglm3", "batch_left_pad_labels"),
    ("chatglm2", "batch_left_pad_labels"),
    ("chatglm", "layers28"),
    ("chatglm_base", "batch_left_pad_labels"),
]


def given(family: str, case: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    """A case's inputs, its tensors, its numbers."""
    tensors = load_file(VECTORS / family / "cases.safetensors")
    own = {name.partition("/")[2]: value for name, value in tensors.items() if case in name}
    names = ("input_ids", "attention_mask", "position_ids", "labels")
    numbers = json.loads((VECTORS / family / "numbers.json").read_text())[case]
    return {name: own[name] for name in names if name in own}, own, numbers


@pytest.mark.parametrize(("family", "case"), TRAINING_CASES)
def test_hidden_states_loss_and_gradients_are_the_originals(family: str, case: str) -> None:
    inputs, tensors, numbers = given(family, case)
    model: Any = load_model(VECTORS / family)
    output = model(**inputs, output_hidden_states=True)
    valid = tensors.get("valid", torch.ones_like(inputs["input_ids"])).bool()
    difference = (output.hidden_states[-1] - tensors["final_hidden"])[valid].detach()
    assert difference.abs().max() < 3e-5
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(numbers["loss"], abs=1e-5)
    for name, parameter in model.named_parameters():
        norm = float(parameter.grad.norm())
        assert norm == pytest.approx(numbers["gradient_l2"][name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_generated_ids_are_the_originals(family: str) -> None:
    inputs, _, numbers = given(family, "gen_batch_left_pad")
    expected = numbers.pop("sequences")
    sequences = load_model(VECTORS / family).generate(**inputs, do_sample=False, **numbers)
    assert sequences.tolist() == expected


@pytest.mark.parametrize("base", ["chatglm_base", "chatglm2", "chatglm3"])
@pytest.mark.parametrize("variant", ["ptuning_projection", "ptuning_embedding"])
def test_hidden_states_and_loss_behind_a_prefix_are_the_originals(base: str, variant: str) -> None:
    inputs, tensors, _ = given(base, "batch_left_pad_labels")
    numbers = json.loads((VECTORS / base / "prefixes.json").read_text())[variant]
    weights = load_file(VECTORS / base / f"{variant}.safetensors")
    hidden = weights.pop("final_hidden")
    model: Any = load_model(VECTORS / base)
    model.add_prefix(numbers["pre_seq_len"], projection=numbers["prefix_projection"])
    assert not model.eval().load_state_dict(weights, strict=False).unexpected_keys
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    difference = (output.hidden_states[-1] - hidden)[tensors["valid"].bool()]
    assert difference.abs().max() < 3e-5
    assert float(output.loss) == pytest.approx(numbers["loss"], abs=1e-5)


@pytest.mark.parametrize("num_bits", [8, 4])
def test_packed_weights_unpack_to_the_originals_to_the_bit(num_bits: int) -> None:
    tensors = load_file(VECTORS / "chatglm2" / "packed.safetensors")
    packed, scale, unpacked = (
        tensors[f"int{num_bits}.{name}"] for name in ("packed", "scale", "unpacked")
    )
    assert torch.equal(unpack(packed, scale, num_bits=num_bits), unpacked)


def test_the_auto_classes_tell_the_first_generation_from_the_later_ones(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    register()
    inputs, _, numbers = given("chatglm", "layers28")
    model = AutoModelForCausalLM.from_pretrained(VECTORS / "chatglm", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    for again in (model, load_model(tmp_path)):
        with torch.no_grad():
            loss = again(**inputs).loss
        assert float(loss) == pytest.approx(numbers["loss"], abs=1e-5)
    later = AutoModelForCausalLM.from_pretrained(VECTORS / "chatglm2", dtype=torch.float32)
    assert type(later).__name__ == "ChatGLMForConditionalGeneration"
