"""LoRA: its arithmetic against PEFT's own count, and what it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.errors import ConfigError
from raytune_glm.methods import METHODS, LoRA
from raytune_glm.models import FAMILIES, inspect_folder, load_model

LLAMA_13B = {
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
TARGETS = [None, "attention", "mlp", "all"]


def trained_names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_llama(folder: Path) -> Path:
    """A LLaMA with grouped queries, whose projections are all of different sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=["chatglm3", "llama"])
def folder(request: pytest.FixtureRequest, tiny_glm: Path, llama: Path) -> Path:
    return {"chatglm3": tiny_glm, "llama": llama}[request.param]


def test_llama_13b_trains_the_published_number_of_parameters() -> None:
    # 40 layers x (q and v) x rank 8 x (5120 in + 5120 out), as PEFT prints for Alpaca-LoRA.
    family = FAMILIES["llama"]
    method = LoRA(rank=8, target_modules=("q_proj", "v_proj"))
    assert method.trainable_parameters(family.shape(LLAMA_13B), family) == 6_553_600


def test_chatglm_6b_trains_the_published_number_of_parameters() -> None:
    # ChatGLM-Finetuning v0.1: 0.0586 % of 6.259 billion, its vocabulary still with 20,000 image
    # tokens; ChatGLM-Tuning's adapter of 14,700,953 bytes holds as many in fp32.
    family = FAMILIES["chatglm"]
    shape = family.shape({**family.published["chatglm-6b"], "vocab_size": 150528})
    count = LoRA(rank=8).trainable_parameters(shape, family)
    assert count == 3_670_016
    assert round((shape.total_parameters + count) / 1e9, 3) == 6.259
    assert round(100 * count / (shape.total_parameters + count), 4) == 0.0586


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("rank", [1, 4])
def test_the_count_is_what_peft_makes(folder: Path, targets: Any, rank: int) -> None:
    found = inspect_folder(folder)
    method = LoRA(rank=rank, target_modules=targets)
    model = method.apply(load_model(folder), found.family)
    made = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert method.trainable_parameters(found.shape, found.family) == made


def test_each_single_target_counts_as_peft_makes_it(folder: Path) -> None:
    found = inspect_folder(folder)
    for name in {linear.name.rpartition(".")[2] for linear in found.shape.linears}:
        method = LoRA(rank=2, target_modules=(name,))
        model = method.apply(load_model(folder), found.family)
        assert method.trainable_parameters(found.shape, found.family) == sum(
            p.numel() for p in model.parameters() if p.requires_grad
        )


def test_a_full_module_name_adapts_that_module_alone(folder: Path) -> None:
    found = inspect_folder(folder)
    one = found.shape.linears[0].name
    model = LoRA(target_modules=(one,)).apply(load_model(folder), found.family)
    assert {
        name.partition(".lora_")[0].removeprefix("base_model.model.")
        for name in trained_names(model)
    } == {one}


def test_only_the_adapters_train_and_they_start_without_effect(tiny_glm: Path) -> None:
    base = load_model(tiny_glm)
    ids = torch.tensor([[3, 5, 7, 9]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        method = LoRA(target_modules="all")
        model = method.apply(base, inspect_folder(tiny_glm).family).eval()
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert all(".lora_A." in name or ".lora_B." in name for name in trained_names(model))


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 32 / 4), (True, 32 / 2)])
def test_the_update_is_scaled_by_alpha_over_rank_or_its_root(
    tiny_glm: Path, stabilized: bool, scale: float
) -> None:
    found = inspect_folder(tiny_glm)
    method = LoRA(rank=4, alpha=32, target_modules="query_key_value", rank_stabilized=stabilized)
    model = method.apply(load_model(tiny_glm), found.family).eval()
    layer = next(
        m for name, m in model.named_modules() if name.endswith("0.self_attention.query_key_value")
    )
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
        x = torch.randn(3, a.shape[1])
        update = layer(x) - layer.base_layer(x)
        torch.testing.assert_close(update, scale * x @ a.T @ b.T, rtol=1e-4, atol=1e-4)


def test_the_same_seed_draws_the_same_adapters(tiny_glm: Path) -> None:
    family = inspect_folder(tiny_glm).family
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        model = LoRA().apply(load_model(tiny_glm), family)
        drawn.append({n: p for n, p in model.named_parameters() if p.requires_grad})
    assert drawn[0].keys() == drawn[1].keys()
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_a_rank_above_the_smallest_side_of_a_target_is_refused(llama: Path) -> None:
    found = inspect_folder(llama)
    # k and v are 32 to 2 x 12 = 24; q is 32 to 48.
    LoRA(rank=24, target_modules="attention").check(found.shape, found.family)
    LoRA(rank=32, target_modules="q_proj").check(found.shape, found.family)
    with pytest.raises(
        ConfigError, match=r"at most 24, the smaller side of .*_proj, but got rank=25"
    ):
        LoRA(rank=25, target_modules="attention").check(found.shape, found.family)


@pytest.mark.parametrize("target", ["query_key_value", "proj", "lm_head", "embed_tokens"])
def test_a_target_that_matches_no_linear_of_the_layers_is_refused(llama: Path, target: str) -> None:
    found = inspect_folder(llama)
    with pytest.raises(ConfigError, match=f"'{target}' matches nothing in this llama model: its "):
        LoRA(target_modules=target).check(found.shape, found.family)


def test_biases_train_where_there_are_some_and_are_refused_where_there_are_none(
    folder: Path,
) -> None:
    found = inspect_folder(folder)
    attention = LoRA(rank=2, target_modules="attention")
    plain = attention.trainable_parameters(found.shape, found.family)
    for bias in ("all", "lora_only"):
        method = attention.model_copy(update={"bias": bias})
        if found.family.name == "llama":
            with pytest.raises(ConfigError, match=f"have no bias, but got bias={bias}"):
                method.check(found.shape, found.family)
        else:
            method.check(found.shape, found.family)
            model = method.apply(load_model(folder), found.family)
            made = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert method.trainable_parameters(found.shape, found.family) == made > plain


def test_dora_trains_a_length_for_each_row_of_a_target(folder: Path) -> None:
    found = inspect_folder(folder)
    plain = LoRA(rank=2, target_modules="mlp")
    dora = plain.model_copy(update={"use_dora": True})
    model = dora.apply(load_model(folder), found.family)
    made = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert dora.trainable_parameters(found.shape, found.family) == made
    rows = sum(target.out_features for target in plain.targets(found.shape, found.family))
    assert made - plain.trainable_parameters(found.shape, found.family) == rows


def test_one_wrong_target_among_right_ones_is_refused(llama: Path) -> None:
    found = inspect_folder(llama)
    with pytest.raises(ConfigError, match="'qproj' matches nothing"):
        LoRA(target_modules=("v_proj", "qproj")).check(found.shape, found.family)


def test_every_method_is_in_the_table_under_its_own_name() -> None:
    assert {name: kind.model_fields["name"].default for name, kind in METHODS.items()} == {
        name: name for name in METHODS
    }
