"""P-Tuning prefixes on a loaded model: sizes, training, saving; numbers are in the oracle tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.models import FAMILIES, inspect_folder, load_model
from tests.models.test_vectors import VECTORS, given

LAYERS = {"chatglm": 28, "chatglm2": 3}


def first_inputs(family: str) -> dict[str, torch.Tensor]:
    return given(family, "layers28" if family == "chatglm" else "batch_left_pad_labels")[0]


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_a_prefix_without_projection_has_two_values_a_layer_head_and_dimension(family: str) -> None:
    model: Any = load_model(VECTORS / family)
    prefix = model.add_prefix(5, projection=False)
    config = json.loads((VECTORS / family / "config.json").read_text())
    shape = FAMILIES[family].shape(config)
    count = sum(parameter.numel() for parameter in prefix.parameters())
    assert count == 5 * 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
@pytest.mark.parametrize("projection", [True, False], ids=["projected", "direct"])
def test_training_a_prefix_lowers_the_loss_and_checkpointing_changes_nothing(
    family: str, projection: bool
) -> None:
    inputs = first_inputs(family)
    curves = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        model: Any = load_model(VECTORS / family)
        model.requires_grad_(requires_grad=False)
        prefix = model.add_prefix(4, projection=projection)
        model.train()
        prefix.dropout.eval()
        if checkpointed:
            model.activation_checkpointing_enable()
        optimizer = torch.optim.AdamW(prefix.parameters(), lr=3e-2 if projection else 0.3)
        losses = []
        for _ in range(8):
            loss = model(**inputs, use_cache=True).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        curves.append(losses)
    assert curves[0][-1] < curves[0][0] - 0.3
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_a_model_with_its_prefix_is_saved_under_the_published_names_and_loads_again(
    family: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    inputs = first_inputs(family)
    model: Any = load_model(VECTORS / family)
    with torch.no_grad():
        bare = model(**inputs).loss
        model.add_prefix(4, projection=True)
        model.eval()
        prefixed = model(**inputs).loss
        model.save_pretrained(tmp_path)
        again = load_model(tmp_path)(**inputs).loss
    assert {
        name for name in load_file(tmp_path / "model.safetensors") if "prefix_encoder" in name
    } == {
        f"transformer.prefix_encoder.{name}"
        for name in (
            "embedding.weight",
            *(f"trans.{n}.{w}" for n in (0, 2) for w in ("weight", "bias")),
        )
    }
    assert float(again) == pytest.approx(float(prefixed), abs=1e-6)
    assert abs(float(prefixed) - float(bare)) > 1e-2


def test_the_published_sizes_of_chatglm_6bs_prefix_are_matched() -> None:
    shape = FAMILIES["chatglm"].shape(FAMILIES["chatglm"].published["chatglm-6b"])
    assert 16 * 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim == 3_670_016


def test_a_checkpoint_with_a_config_for_a_prefix_it_lacks_is_refused(tmp_path: Path) -> None:
    from raytune_glm.errors import ModelError

    for file in (VECTORS / "chatglm2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pre_seq_len": 8}))
    (tmp_path / "tokenizer.model").touch()
    assert inspect_folder(tmp_path).family.name == "chatglm2"
    with pytest.raises(ModelError, match=r"lacks transformer.prefix_encoder.embedding.weight"):
        load_model(tmp_path)
