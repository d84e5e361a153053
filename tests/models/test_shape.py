"""Parameter arithmetic from config.json against models that were built, and published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.models import FAMILIES, family_of, inspect_folder, load_model, published_config
from tests.models.conftest import write_byte_tokenizer


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
    assert dict(found.shape.parameters) == {
        name: parameter.numel() for name, parameter in model.named_parameters()
    }
    layers = model.get_submodule(found.family.layers_path)
    assert found.family.layer_parameters(found.shape) == tuple(
        sum(parameter.numel() for parameter in layer.parameters()) for layer in layers
    )
    assert found.shape.num_layers == len(layers)
    names = {name.rpartition(".")[2] for name in ours}
    assert set(found.family.attention_modules + found.family.mlp_modules) == names
    assert set(found.family.default_lora_modules) <= names


def test_a_chatglm_folders_shape_is_the_built_models(chatglm_folder: Path) -> None:
    assert_shape_is_the_models(chatglm_folder)


def test_a_llama_folders_shape_is_the_built_models(llama_folder: Path) -> None:
    assert_shape_is_the_models(llama_folder)


SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("model_type", ["glm", "glm4"])
@pytest.mark.parametrize("attention_bias", [True, False])
def test_a_glm4_folders_shape_is_the_built_models(
    model_type: str, attention_bias: bool, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **SIZES, attention_bias=attention_bias)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    write_byte_tokenizer(tmp_path)
    assert inspect_folder(tmp_path).family.name == "glm"
    assert_shape_is_the_models(tmp_path)


@pytest.mark.parametrize("with_headers", [True, False], ids=["safetensors", "bin"])
def test_a_generic_folders_shape_is_the_built_models(tmp_path: Path, with_headers: bool) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    model.save_pretrained(tmp_path)
    if not with_headers:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    write_byte_tokenizer(tmp_path)
    assert inspect_folder(tmp_path).family.name == "generic"
    assert_shape_is_the_models(tmp_path)


def published_shape(name: str) -> tuple[Any, Any]:
    config = published_config(name)
    assert config is not None
    family = family_of(config)
    return family, family.shape(config)


@pytest.mark.parametrize(
    ("name", "family", "parameters"),
    [
        ("chatglm-6b", "chatglm", 6_173_286_400),
        ("chatglm2-6b", "chatglm2", 6_243_584_000),
        ("chatglm3-6b", "chatglm3", 6_243_584_000),
        ("glm-4-9b-chat", "chatglm4", 9_399_951_360),
        ("glm-4-9b-chat-hf", "glm", 9_399_951_360),
        ("GLM-4-9B-0414", "glm", 9_400_279_040),
        ("GLM-Z1-32B-0414", "glm", 32_566_081_536),
        ("llama-7b", "llama", 6_738_415_616),
        ("llama-13b", "llama", 13_015_864_320),
        ("llama-65b", "llama", 65_285_660_672),
    ],
)
def test_published_checkpoints_have_their_number_of_parameters(
    name: str, family: str, parameters: int
) -> None:
    found, shape = published_shape(name)
    assert found.name == family
    assert shape.total_parameters == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Attention 4 h^2 + 4 h, feed-forward 8 h^2 + 5 h, two norms of 2 h, for h = 4096.
        ("chatglm-6b", 12 * 4096**2 + 13 * 4096),
        # Attention 4 h^2, feed-forward 3 h f, two norms of h, for h = 5120 and f = 13824.
        ("llama-13b", 4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120),
    ],
)
def test_every_layer_of_a_published_checkpoint_has_its_number_of_parameters(
    name: str, parameters: int
) -> None:
    family, shape = published_shape(name)
    assert set(family.layer_parameters(shape)) == {parameters}


@pytest.mark.parametrize(
    ("name", "modules", "parameters"),
    [
        ("chatglm-6b", ("query_key_value",), 3_670_016),
        ("llama-13b", ("q_proj", "v_proj"), 6_553_600),
    ],
)
def test_lora_of_rank_8_has_its_published_number_of_parameters(
    name: str, modules: tuple[str, ...], parameters: int
) -> None:
    family, shape = published_shape(name)
    assert family.default_lora_modules == modules
    assert parameters == sum(
        8 * (linear.in_features + linear.out_features)
        for linear in shape.linears
        if linear.name.rpartition(".")[2] in modules
    )


def test_tied_embeddings_are_counted_once(chatglm_folder: Path) -> None:
    config = json.loads((chatglm_folder / "config.json").read_text())
    family = FAMILIES["chatglm3"]
    apart = family.shape(config).total_parameters
    tied = family.shape({**config, "tie_word_embeddings": True}).total_parameters
    assert apart - tied == config["padded_vocab_size"] * config["hidden_size"]
