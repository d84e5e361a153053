"""Loading: layouts, precisions, quantisation, refusals by tensor name, many processes at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raytune_glm.errors import ModelError
from raytune_glm.models import inspect_folder, load_model, load_tokenizer, register
from tests.models.conftest import CHATGLM_CONFIG, write_byte_tokenizer, write_chatglm

IDS = torch.tensor([[5, 9, 60, 270, 301, 12]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="module")
def reference(chatglm_folder: Path) -> torch.Tensor:
    return logits(load_model(chatglm_folder))


@pytest.fixture
def tensors(chatglm_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(chatglm_folder / "model.safetensors")


@pytest.fixture
def bare(chatglm_folder: Path, tmp_path: Path) -> Path:
    """The checkpoint without its weights."""
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((chatglm_folder / name).read_bytes())
    return tmp_path


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], *, safe: bool) -> None:
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        part = {name: tensors[name] for name in half}
        save_file(part, folder / file) if safe else torch.save(part, folder / file)
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_sharded_checkpoints_load(
    bare: Path, tensors: dict[str, torch.Tensor], safe: bool, reference: torch.Tensor
) -> None:
    write_shards(bare, tensors, safe=safe)
    assert torch.equal(logits(load_model(bare)), reference)


def test_a_single_bin_file_loads(
    bare: Path, tensors: dict[str, torch.Tensor], reference: torch.Tensor
) -> None:
    torch.save(tensors, bare / "pytorch_model.bin")
    assert torch.equal(logits(load_model(bare)), reference)


def test_a_bin_file_with_code_in_it_is_refused_and_not_run(bare: Path, tmp_path: Path) -> None:
    import pickle

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was-run",))

    (bare / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(ModelError, match=r"pytorch_model.bin is damaged or no weights"):
        load_model(bare)
    assert not (tmp_path / "was-run").exists()


def test_a_truncated_bin_shard_is_refused_by_name(
    bare: Path, tensors: dict[str, torch.Tensor]
) -> None:
    write_shards(bare, tensors, safe=False)
    shard = bare / "pytorch_model-00002-of-00002.bin"
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"pytorch_model-00002-of-00002.bin is damaged"):
        load_model(bare)


def test_the_rotary_frequencies_of_published_checkpoints_are_left_aside(
    bare: Path, tensors: dict[str, torch.Tensor], reference: torch.Tensor
) -> None:
    tensors["transformer.rotary_pos_emb.inv_freq"] = torch.full((2,), 99.0)
    save_file(tensors, bare / "model.safetensors")
    assert torch.equal(logits(load_model(bare)), reference)


def test_a_checkpoint_that_lacks_tensors_is_refused_by_their_names(
    bare: Path, tensors: dict[str, torch.Tensor]
) -> None:
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    del tensors[name]
    save_file(tensors, bare / "model.safetensors")
    with pytest.raises(ModelError, match=f"the checkpoint lacks {name}: use the two files"):
        load_model(bare)


def test_a_checkpoint_with_surplus_tensors_is_refused_by_their_names(
    bare: Path, tensors: dict[str, torch.Tensor]
) -> None:
    tensors |= {f"transformer.encoder.layers.2.extra{n}.weight": torch.ones(1) for n in range(7)}
    save_file(tensors, bare / "model.safetensors")
    message = (
        r"the checkpoint has too many transformer.encoder.layers.2.extra0.weight, .* and 2 more"
    )
    with pytest.raises(ModelError, match=message):
        load_model(bare)


def test_a_tensor_of_another_shape_is_refused_by_name(
    bare: Path, tensors: dict[str, torch.Tensor]
) -> None:
    name = "transformer.encoder.final_layernorm.weight"
    tensors[name] = torch.ones(31)
    save_file(tensors, bare / "model.safetensors")
    with pytest.raises(ModelError, match=name):
        load_model(bare)


def test_what_is_saved_has_the_published_names_and_loads_again(
    chatglm_folder: Path,
    tensors: dict[str, torch.Tensor],
    tmp_path: Path,
    reference: torch.Tensor,
) -> None:
    model = load_model(chatglm_folder)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    load_tokenizer(chatglm_folder).save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["padded_vocab_size"] == 384
    assert config["multi_query_group_num"] == 2
    assert "auto_map" not in config
    assert torch.equal(logits(load_model(tmp_path)), reference)
    assert load_tokenizer(tmp_path).encode("风扇") == load_tokenizer(chatglm_folder).encode("风扇")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_the_one_asked_for(chatglm_folder: Path, precision: Any, dtype: Any) -> None:
    model = load_model(chatglm_folder, precision=precision)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training


def test_an_unknown_precision_or_quantisation_is_refused(chatglm_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"`precision` must be one of fp32, bf16, fp16, but got"):
        load_model(chatglm_folder, precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"`quantization` must be int8, nf4 or nothing, but got"):
        load_model(chatglm_folder, quantization="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize(("quantization", "bound"), [("int8", 0.2), ("nf4", 1.5)])
def test_quantised_linears_are_near_the_model_and_the_rest_is_left(
    quantization: Any, bound: float, tmp_path: Path
) -> None:
    folder = write_chatglm(tmp_path, hidden_size=64, ffn_hidden_size=64, kv_channels=16)
    plain = logits(load_model(folder))
    model: Any = load_model(folder, quantization=quantization)
    layer = model.transformer.encoder.layers[0]
    for linear in (layer.self_attention.query_key_value, layer.mlp.dense_4h_to_h):
        assert type(linear).__module__.startswith("bitsandbytes")
        assert linear.weight.dtype in (torch.int8, torch.uint8)
    assert type(model.transformer.output_layer) is torch.nn.Linear
    distance = float((logits(model) - plain).abs().max())
    assert 0 < distance < bound


def test_nf4_on_a_cpu_refuses_linears_that_its_kernel_cannot_do(chatglm_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"query_key_value has in_features=32: use int8 or none"):
        load_model(chatglm_folder, quantization="nf4")


def test_an_evaluation_before_it_does_not_change_the_gradients_on_an_nf4_base(
    tmp_path: Path,
) -> None:
    folder = write_chatglm(tmp_path, hidden_size=64, ffn_hidden_size=64, kv_channels=16)
    gradients = []
    for evaluated_before in (False, True):
        model: Any = load_model(folder, quantization="nf4")
        if evaluated_before:
            logits(model)
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        model.train()(inputs_embeds=embedded, labels=IDS).loss.backward()
        gradients.append(embedded.grad)
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_register_enters_the_auto_classes_with_remote_code_off(
    chatglm_folder: Path, reference: torch.Tensor
) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    register()
    register()
    assert AutoConfig.from_pretrained(chatglm_folder).family == "chatglm3"
    model = AutoModelForCausalLM.from_pretrained(chatglm_folder, dtype=torch.float32)
    assert torch.equal(logits(model), reference)
    base = AutoModel.from_pretrained(chatglm_folder, dtype=torch.float32)
    with torch.no_grad():
        assert base(IDS).last_hidden_state.shape == (1, 6, 32)
    tokenizer = AutoTokenizer.from_pretrained(chatglm_folder)
    assert type(tokenizer) is type(load_tokenizer(chatglm_folder))
    assert tokenizer.family == "chatglm3"


def load_and_run(folder: Path) -> tuple[float, list[int]]:
    register()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    return float(logits(model).sum()), tokenizer.encode("风扇")


def test_many_processes_load_at_once(chatglm_folder: Path, reference: torch.Tensor) -> None:
    # A fork server pays the import of torch once for all; loading is in the children.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["raytune_glm.models.loading", "transformers.models.auto"])
    with context.Pool(4) as pool:
        answers = pool.map(load_and_run, [chatglm_folder] * 8, chunksize=1)
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert answers[0][0] == pytest.approx(float(reference.sum()), abs=1e-3)


def test_llama_loads_through_the_same_call(llama_folder: Path) -> None:
    model: Any = load_model(llama_folder, precision="bf16")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.bfloat16
    tokenizer = load_tokenizer(llama_folder)
    assert tokenizer.decode(tokenizer.encode("The fan does not turn")) == "The fan does not turn"


@pytest.mark.parametrize("quantization", [None, "int8", "nf4"])
def test_random_weights_have_the_shape_and_no_file_is_read(
    quantization: Any, tmp_path: Path
) -> None:
    config = {**CHATGLM_CONFIG, "hidden_size": 64, "ffn_hidden_size": 64, "kv_channels": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model: Any = load_model(
            tmp_path, precision="bf16", quantization=quantization, random_weights=True
        )
        drawn.append(logits(model))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].dtype == torch.bfloat16
    linear = model.transformer.encoder.layers[0].mlp.dense_4h_to_h
    assert type(linear).__module__.startswith("bitsandbytes") == (quantization is not None)


def test_random_weights_of_a_transformers_model(llama_folder: Path) -> None:
    model = load_model(llama_folder, random_weights=True)
    assert model.num_parameters() == load_model(llama_folder).num_parameters()
    assert torch.isfinite(logits(model)).all()


def test_quantising_what_transformers_saved_quantised_is_refused(
    llama_folder: Path, tmp_path: Path
) -> None:
    load_model(llama_folder, quantization="int8").save_pretrained(tmp_path)
    write_byte_tokenizer(tmp_path)
    again: Any = load_model(tmp_path)
    assert type(again.model.layers[0].mlp.up_proj).__name__ == "Linear8bitLt"
    assert inspect_folder(tmp_path).shape.num_layers == 2
    for look in (inspect_folder, load_model):
        with pytest.raises(
            ModelError, match=r"got quantization='nf4' for one of quant_method=bitsandbytes: leave"
        ):
            look(tmp_path, quantization="nf4")
