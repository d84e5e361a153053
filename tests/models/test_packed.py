"""The published int8 and int4 checkpoints: they load, give the original's numbers, and train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raytune_glm.errors import ModelError
from raytune_glm.models import inspect_folder, load_model
from raytune_glm.models.chatglm.packed import unpack
from tests.models.oracle import FAMILY_NAMES, HIDDEN, LOGITS, case, worst

pytestmark = pytest.mark.shared


@pytest.fixture(params=FAMILY_NAMES)
def source(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "oracle" / request.param


def write_packed(source: Path, folder: Path, num_bits: int) -> Path:
    """Write a checkpoint as the published quantised ones are."""
    tensors = load_file(source / "model.safetensors")
    packed = load_file(source / f"quant{num_bits}.safetensors")
    tensors |= {name: value for name, value in packed.items() if "dequantised" not in name}
    tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_bit": num_bits}))
    for name in ("tokenizer.model", "ice_text.model", "tokenizer_config.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return folder


@pytest.mark.parametrize("num_bits", [8, 4])
def test_unpacked_weights_are_the_originals_to_the_bit(source: Path, num_bits: int) -> None:
    tensors = load_file(source / f"quant{num_bits}.safetensors")
    names = [name.removeprefix("dequantised.") for name in tensors if "dequantised" in name]
    assert len(names) >= 8
    for name in names:
        ours = unpack(tensors[name], tensors[f"{name}_scale"], num_bits=num_bits)
        assert torch.equal(ours, tensors[f"dequantised.{name}"]), name


@pytest.mark.parametrize("num_bits", [8, 4])
def test_a_packed_checkpoint_gives_the_originals_numbers(
    source: Path, num_bits: int, tmp_path: Path
) -> None:
    folder = write_packed(source, tmp_path, num_bits)
    one = case(source, f"quant{num_bits}_fp32")
    with torch.no_grad():
        output = load_model(folder)(**one.inputs, output_hidden_states=True)
        assert worst(output.hidden_states[-1], one.expected("final_hidden")) < HIDDEN
        assert worst(output.logits[:, -6:], one.expected("logits_tail")) < LOGITS
        for precision, bound in (("fp16", 0.1), ("bf16", 1.0)):
            half: Any = load_model(folder, precision=precision)  # type: ignore[arg-type]
            logits = half(**one.inputs).logits
            assert worst(logits[:, -6:], one.expected("logits_tail")) < bound


@pytest.mark.parametrize("how", ["lora", "prefix"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_train_on_packed_weights(source: Path, how: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = load_model(write_packed(source, tmp_path, 4))
    model.requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if how == "lora":
        lora = LoraConfig(r=4, target_modules=["query_key_value", "dense_4h_to_h"])
        trained: Any = get_peft_model(model, lora)
    else:
        trained = model
        model.add_prefix(4, projection=False)
    trained.train()
    parameters = [value for value in trained.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2 if how == "lora" else 0.3)
    inputs = case(source, "single_labels").inputs
    losses = []
    for _ in range(20):
        loss = trained(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    after = {name.replace("base_layer.", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_gradients_through_packed_weights_are_those_of_the_unpacked(source: Path) -> None:
    from raytune_glm.models.chatglm.packed import PackedLinear

    tensors = load_file(source / "quant4.safetensors")
    name = next(name for name in tensors if name.startswith("transformer") and "scale" not in name)
    packed = tensors[name]
    layer = PackedLinear(packed.shape[1] * 2, packed.shape[0], bias=False, num_bits=4)
    layer.weight.data, layer.weight_scale.data = packed, tensors[f"{name}_scale"]
    inputs = torch.randn(3, 5, layer.in_features, requires_grad=True)
    target = torch.randn(3, 5, layer.out_features)
    (layer(inputs) * target).sum().backward()
    expected = target @ layer.unpacked().float()
    assert inputs.grad is not None
    assert torch.allclose(inputs.grad, expected, atol=1e-5)


def test_a_packed_checkpoint_saves_as_it_was(source: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    folder = write_packed(source, tmp_path / "first", 4)
    load_model(folder).save_pretrained(tmp_path / "second")
    theirs = load_file(folder / "model.safetensors")
    ours = load_file(tmp_path / "second" / "model.safetensors")
    assert ours.keys() == {name for name in theirs if "inv_freq" not in name}
    for name, value in ours.items():
        assert torch.equal(value.float(), theirs[name].float()), name


def test_quantising_a_quantised_checkpoint_again_is_refused(source: Path, tmp_path: Path) -> None:
    folder = write_packed(source, tmp_path, 4)
    assert inspect_folder(folder).family.name == source.name
    with pytest.raises(ModelError, match=r"got quantization='nf4' for one of int4: leave it out"):
        load_model(folder, quantization="nf4")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"embeddings of a checkpoint must not be quantised"):
        load_model(folder)
    config |= {"quantization_embeddings": False, "quantization_bit": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"`quantization_bit` must be 4, 8 or 0, but config.json"):
        load_model(folder)
