"""A merged checkpoint against the base with the adapter on it, on every architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raytune_glm.config.tree import ModelSettings
from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.merging import Merged, merge
from raytune_glm.methods import AnyMethod, LoRA, PromptTuning, PTuningV2, saved_method
from raytune_glm.models import Checkpoint, load_model
from raytune_glm.models.folder import weight_files
from raytune_glm.tuned import Tuned
from tests.methods.conftest import Base, batch
from tests.methods.test_contract import EXAMPLES, logits, train, trained

MERGEABLE = ["lora", "dora", "lora_with_biases", "freeze", "full", "rslora"]
METHODS: dict[str, AnyMethod] = {
    **EXAMPLES,
    "rslora": LoRA(rank=4, alpha=8, rank_stabilized=True, target_modules="mlp"),
}


def tuned(base: Base, folder: Path) -> Tuned:
    """What `find` gives for an adapter; these bases have no tokenizer, which it would miss."""
    config = json.loads((base.folder / "config.json").read_text())
    return Tuned(
        base=ModelSettings(path=str(base.folder)),
        checkpoint=Checkpoint(
            folder=base.folder, config=config, family=base.family, shape=base.shape
        ),
        precision="fp32",
        method=saved_method(folder),
        folder=folder,
    )


def write(found: Tuned, out: Path, **options: Any) -> Merged:
    given = {"layout": "hf", "precision": None, "max_shard_bytes": 10**9, **options}
    return merge(found, out, report=lambda done, total: None, **given)


def train_and_save(base: Base, method: AnyMethod, name: str, folder: Path) -> Path:
    torch.manual_seed(11)
    model = method.apply(base.load(), base.family)
    train(model, name, steps=3)
    method.save(model, {n: p.detach().clone() for n, p in trained(model).items()}, folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            found |= set(opened.keys())
    return found


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_merged_model_answers_as_base_and_adapter_do(
    base: Base, name: str, tmp_path: Path
) -> None:
    if name == "lora_with_biases" and not any(n.endswith(".bias") for n in base.shape.parameters):
        pytest.skip("there is no bias to train")
    method = METHODS[name]
    adapter = train_and_save(base, method, name, tmp_path / "adapter")
    written = write(tuned(base, adapter), tmp_path / "merged")
    together = logits(method.load(base.load(), adapter), batch())
    merged = logits(load_model(tmp_path / "merged"), batch())
    torch.testing.assert_close(merged, together, rtol=0, atol=1e-5)
    assert (merged - logits(base.load(), batch())).abs().max() > 1e-3
    assert names(tmp_path / "merged") == names(base.folder)
    assert 0 < written.changed <= written.num_weights
    config = json.loads((base.folder / "config.json").read_text())
    assert json.loads((tmp_path / "merged" / "config.json").read_text()) == config


@pytest.mark.parametrize("architecture", ["chatglm", "chatglm3", "llama", "qwen2"])
@pytest.mark.parametrize("part", ["input", "output"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_module_that_peft_trained_beside_is_merged_even_where_it_was_tied(
    bases: dict[str, Base], architecture: str, part: str, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    base = bases[architecture]
    plain = base.load()
    module = plain.get_input_embeddings() if part == "input" else plain.get_output_embeddings()
    beside = next(n for n, m in plain.named_modules() if m is module).rpartition(".")[2]
    config = LoraConfig(
        r=2, target_modules=[base.family.attention_modules[0]], modules_to_save=[beside]
    )
    model: Any = get_peft_model(plain, config)
    train(model, "lora", steps=3)
    model.save_pretrained(tmp_path / "adapter")
    write(tuned(base, tmp_path / "adapter"), tmp_path / "merged")
    again = PeftModel.from_pretrained(base.load(), str(tmp_path / "adapter"))
    merged = load_model(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, batch()), logits(again, batch()), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def trained_adapter(bases: dict[str, Base], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return train_and_save(bases["llama"], EXAMPLES["lora"], "lora", folder)


@pytest.fixture
def adapter(trained_adapter: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the LLaMA, a test's own."""
    return copied(trained_adapter, tmp_path / "adapter")


def test_no_shard_is_larger_than_asked_for_and_the_index_names_every_weight(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    base, out = bases["llama"], tmp_path / "merged"
    # The largest weights, 128 x 64 numbers, take 32,768 bytes.
    written = write(tuned(base, adapter), out, max_shard_bytes=36_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 3
    tensors = {shard.name: load_file(shard) for shard in shards}
    for held in tensors.values():
        assert sum(tensor.nbytes for tensor in held.values()) <= 36_000
    assert index["metadata"]["total_size"] == written.num_bytes
    assert index["weight_map"] == {name: shard for shard in tensors for name in tensors[shard]}
    together = logits(EXAMPLES["lora"].load(base.load(), adapter), batch())
    torch.testing.assert_close(logits(load_model(out), batch()), together, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_weights_are_rounded_once_to_the_precision_that_is_asked_for(
    bases: dict[str, Base], adapter: Path, tmp_path: Path, precision: Any, dtype: str
) -> None:
    base = bases["llama"]
    write(tuned(base, adapter), tmp_path / "exact")
    write(tuned(base, adapter), tmp_path / "rounded", precision=precision)
    exact = load_file(tmp_path / "exact" / "model.safetensors")
    rounded = load_file(tmp_path / "rounded" / "model.safetensors")
    assert all(torch.equal(rounded[n], exact[n].to(getattr(torch, dtype))) for n in exact)
    config = json.loads((tmp_path / "rounded" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == dtype


def test_an_adapter_as_older_peft_wrote_it_is_merged_alike(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    base = bases["llama"]
    write(tuned(base, adapter), tmp_path / "new")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    write(tuned(base, adapter), tmp_path / "old")
    new, old = (load_file(tmp_path / name / "model.safetensors") for name in ("new", "old"))
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_alpha_of_a_pattern_counts_for_the_modules_that_it_names(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = bases["llama"]
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"layers.0.self_attn.q_proj": 64, "v_proj": 2},
    )
    model: Any = get_peft_model(base.load(), config)
    train(model, "lora", steps=3)
    model.save_pretrained(tmp_path / "adapter")
    write(tuned(base, tmp_path / "adapter"), tmp_path / "merged")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged"), batch()), logits(model, batch()), rtol=0, atol=1e-5
    )


def test_an_adapter_that_was_not_trained_is_refused_and_nothing_is_left(
    bases: dict[str, Base], tmp_path: Path
) -> None:
    base, method = bases["chatglm3"], EXAMPLES["lora"]
    model = method.apply(base.load(), base.family)
    method.save(model, {n: p.detach() for n, p in trained(model).items()}, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"changes no weight of .* it was not trained"):
        write(tuned(base, tmp_path / "adapter"), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_change_that_the_files_precision_swallows_is_refused(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    source = bases["llama"]
    base = Base(copied(source.folder, tmp_path / "base"), source.family, source.shape)
    weights = load_file(source.folder / "model.safetensors")
    rounded = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(rounded, base.folder / "model.safetensors", metadata={"format": "pt"})
    tensors = load_file(adapter / "adapter_model.safetensors")
    small = {n: t * 1e-8 if ".lora_B." in n else t for n, t in tensors.items()}
    save_file(small, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"too small for the precision .* --precision fp32"):
        write(tuned(base, adapter), tmp_path / "rounded")
    assert write(tuned(base, adapter), tmp_path / "exact", precision="fp32").changed


def test_numbers_that_a_precision_cannot_hold_are_refused(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    huge = {n: t * 1e8 if ".lora_B." in n else t for n, t in tensors.items()}
    save_file(huge, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"must be finite .* torch.float16: write --precision"):
        write(tuned(bases["llama"], adapter), tmp_path / "merged", precision="fp16")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("enable_lora", [True, False, True], r"has enable_lora=\[True, False, True\]: merge it"),
        ("use_qalora", True, "has use_qalora=True: merge it with plain PEFT"),
        ("init_lora_weights", "pissa", "has init_lora_weights='pissa', which changes them"),
    ],
)
def test_a_setting_that_merging_does_not_know_is_refused_by_name(
    bases: dict[str, Base], adapter: Path, tmp_path: Path, setting: str, value: Any, message: str
) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), setting: value}))
    with pytest.raises(ConfigError, match=message):
        write(tuned(bases["llama"], adapter), tmp_path / "merged")


def test_a_tensor_that_merging_does_not_know_is_refused_by_name(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    place = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"
    save_file({**tensors, place: torch.ones(48)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"layers.0.self_attn.q_proj in .* has .*lora_B.bias"):
        write(tuned(bases["llama"], adapter), tmp_path / "merged")


def test_a_weight_that_the_base_does_not_have_is_refused_by_name(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    found = tuned(bases["chatglm3"], adapter)
    with pytest.raises(ModelError, match=r"model.layers.0.* do not have: give the base that it"):
        write(found, tmp_path / "merged")


@pytest.mark.parametrize("method", [PTuningV2(num_virtual_tokens=2), PromptTuning()])
@pytest.mark.parametrize("architecture", ["chatglm3", "llama"])
def test_virtual_tokens_are_refused_with_the_reason(
    bases: dict[str, Base], architecture: str, method: AnyMethod, tmp_path: Path
) -> None:
    base = bases[architecture]
    folder = train_and_save(base, method, method.name, tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"must change weights of the base, but .* holds a .*pr"):
        write(tuned(base, folder), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_tokenizer_licence_and_code_go_along_and_other_weights_do_not(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    source = bases["llama"]
    copy = copied(source.folder, tmp_path / "base")
    for name in ("tokenizer.model", "MODEL_LICENSE", "modeling.py", "training_args.bin", "x.onnx"):
        (copy / name).write_bytes(b"1")
    base = Base(copy, source.family, source.shape)
    write(tuned(base, adapter), tmp_path / "merged")
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "merged_from.json"),
        *("tokenizer.model", "MODEL_LICENSE", "modeling.py"),
    }


def write_packed(base: Base, folder: Path, num_bits: int) -> Base:
    """Write a base as the published int8 and int4 checkpoints are, with round-to-nearest."""
    tensors = load_file(base.folder / "model.safetensors")
    for linear in base.shape.linears:
        weight = tensors[f"{linear.name}.weight"]
        largest = 2 ** (num_bits - 1) - 1
        scale = (weight.abs().amax(dim=1) / largest).half()
        packed = (weight / scale[:, None].float()).round().clamp(-largest, largest).to(torch.int8)
        if num_bits == 4:
            packed = (packed[:, ::2] << 4) | (packed[:, 1::2] & 0xF)
        tensors |= {f"{linear.name}.weight": packed, f"{linear.name}.weight_scale": scale}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_bit": num_bits}))
    return Base(folder, base.family, base.shape)


@pytest.mark.parametrize("num_bits", [8, 4])
@pytest.mark.parametrize("architecture", ["chatglm", "chatglm3"])
def test_a_packed_base_is_unpacked_and_merged_in_full_precision(
    bases: dict[str, Base], architecture: str, num_bits: int, tmp_path: Path
) -> None:
    base = write_packed(bases[architecture], tmp_path / "base", num_bits)
    # Not all linears, so that some stay that must be unpacked all the same.
    method = LoRA(rank=4, target_modules=("query_key_value",))
    adapter = train_and_save(base, method, "lora", tmp_path / "adapter")
    write(tuned(base, adapter), tmp_path / "merged", precision="fp32")
    merged = load_model(tmp_path / "merged")
    together = logits(method.load(base.load(), adapter), batch())
    torch.testing.assert_close(logits(merged, batch()), together, rtol=0, atol=1e-5)
    assert names(tmp_path / "merged") == names(bases[architecture].folder)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


def test_a_base_that_another_library_quantised_is_refused_with_the_remedy(
    bases: dict[str, Base], adapter: Path, tmp_path: Path
) -> None:
    found = tuned(bases["llama"], adapter)
    found.checkpoint.config["quantization_config"] = {"quant_method": "gptq"}
    with pytest.raises(ModelError, match=r"plain weights, .* made from as model.path=<folder>"):
        write(found, tmp_path / "merged")
