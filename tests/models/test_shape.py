"""Parameter arithmetic from config.json against models that were built, and published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.models import FAMILIES, inspect_folder, load_model
from tests.models.conftest import CHATGLM_CONFIG, write_byte_tokenizer

CHATGLM3_6B = {
    **CHATGLM_CONFIG,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "seq_length": 8192,
}
CHATGLM_6B = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_layers": 28,
    "num_attention_heads": 32,
    "vocab_size": 130528,
    "max_sequence_length": 2048,
}
LLAMA_13B = {
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}


def assert_shape_is_the_models(folder: Path) -> None:
    import torch

    found = inspect_folder(folder)
    model: Any = load_model(folder)
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(found.family.layers_path)
    }
    ours = {
        linear.name: (linear.in_features, linear.out_features) for linear in found.shape.linears
    }
    assert ours == linears
    assert found.shape.total_parameters == model.num_parameters()
    assert found.shape.num_layers == len(model.get_submodule(found.family.layers_path))
    names = {name.rpartition(".")[2] for name in ours}
    assert set(found.family.attention_modules + found.family.mlp_modules) == names
    assert set(found.family.default_lora_modules) <= names


def test_a_chatglm_folders_shape_is_the_built_models(chatglm_folder: Path) -> None:
    assert_shape_is_the_models(chatglm_folder)


def test_a_llama_folders_shape_is_the_built_models(llama_folder: Path) -> None:
    assert_shape_is_the_models(llama_folder)


@pytest.mark.parametrize("with_headers", [True, False], ids=["safetensors", "bin"])
def test_a_generic_folders_shape_is_the_built_models(tmp_path: Path, with_headers: bool) -> None:
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    config = GlmConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
    )
    model = GlmForCausalLM(config)
    model.save_pretrained(tmp_path)
    if not with_headers:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    write_byte_tokenizer(tmp_path)
    assert inspect_folder(tmp_path).family.name == "generic"
    assert_shape_is_the_models(tmp_path)


def test_chatglm3_6b_has_its_published_number_of_parameters() -> None:
    assert FAMILIES["chatglm3"].shape(CHATGLM3_6B).total_parameters == 6_243_584_000


def test_chatglm_6b_and_its_lora_have_their_published_number_of_parameters() -> None:
    shape = FAMILIES["chatglm"].shape(CHATGLM_6B)
    assert shape.total_parameters == 6_173_286_400
    lora = sum(
        8 * (linear.in_features + linear.out_features)
        for linear in shape.linears
        if linear.name.endswith("query_key_value")
    )
    assert lora == 3_670_016


def test_llama_13b_and_its_lora_have_their_published_number_of_parameters() -> None:
    family = FAMILIES["llama"]
    shape = family.shape(LLAMA_13B)
    lora = sum(
        8 * (linear.in_features + linear.out_features)
        for linear in shape.linears
        if linear.name.rpartition(".")[2] in family.default_lora_modules
    )
    assert lora == 6_553_600
    assert shape.total_parameters + lora == 13_022_417_920


def test_tied_embeddings_are_counted_once(chatglm_folder: Path) -> None:
    config = json.loads((chatglm_folder / "config.json").read_text())
    family = FAMILIES["chatglm3"]
    apart = family.shape(config).total_parameters
    tied = family.shape({**config, "tie_word_embeddings": True}).total_parameters
    assert apart - tied == config["padded_vocab_size"] * config["hidden_size"]
