"""What a name on the command line stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raytune_glm import chat, merge, predict
from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.methods import PTuningV2, saved_method
from raytune_glm.models import load_model, stored_precision
from raytune_glm.tuned import find
from tests.models.conftest import write_byte_tokenizer

IDS = torch.tensor([[3, 5, 7, 9, 11]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def write_llama(folder: Path, **changes: Any) -> Path:
    """A LLaMA with a tokenizer, and weights of visible size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=400, num_attention_heads=4, initializer_range=0.3, **{**sizes, **changes}
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


@pytest.mark.parametrize("place", ["", "best"])
def test_results_stand_for_the_winner(results: Path, tiny_glm: Path, place: str) -> None:
    found = find(str(results / place))
    assert (found.folder, found.base.path) == (results / "best", str(tiny_glm))
    assert found.run is not None
    assert found.run.train.max_new_tokens == 6
    assert found.precision == "fp32"


def test_a_trials_folder_stands_for_the_evaluation_that_the_sweep_counts(results: Path) -> None:
    for trial in ("0000", "0001"):
        found = find(str(results / "trials" / trial))
        assert found.folder == results / "trials" / trial / "checkpoint/adapter/step-000008"
        assert found.run is not None


def test_one_evaluations_adapter_can_be_named_by_itself(results: Path) -> None:
    adapter = results / "trials/0000/checkpoint/adapter/step-000004"
    found = find(str(adapter))
    assert found.folder == adapter
    assert found.run is not None


def test_what_is_loaded_is_the_base_with_that_adapter_on_it(results: Path, tiny_glm: Path) -> None:
    from peft import PeftModel

    plain = PeftModel.from_pretrained(load_model(tiny_glm), str(results / "best"))
    ours = logits(find(str(results)).load("cpu"))
    assert torch.equal(ours, logits(plain))
    assert not torch.allclose(ours, logits(load_model(tiny_glm)), atol=1e-2)


def test_a_base_is_itself_and_its_files_precision_is_known_without_torch(tiny_glm: Path) -> None:
    found = find(str(tiny_glm))
    assert (found.method, found.folder, found.run, found.precision) == (None, None, None, None)
    assert stored_precision(tiny_glm) == "fp16"
    assert next(found.load("cpu").parameters()).dtype == torch.float32
    chosen = find(str(tiny_glm), ["model.precision=bf16"])
    assert next(chosen.load("cpu").parameters()).dtype == torch.bfloat16


def test_an_adapter_away_from_its_run_says_its_base_itself(
    results: Path, tiny_glm: Path, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(results / "best", tmp_path / "mine"))
    found = find(str(adapter))
    assert (found.base.path, found.run) == (str(tiny_glm), None)


def test_a_base_that_moved_is_given_by_hand(results: Path, tiny_glm: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(results / "best", tmp_path / "mine"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/models/gone"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"/models/gone does not exist[^!]*give its place as"):
        find(str(adapter))
    found = find(str(adapter), [f"model.path={tiny_glm}"])
    assert found.base.path == str(tiny_glm)
    assert found.notes == (f"{adapter} was trained on /models/gone; here it is put on {tiny_glm}",)


def test_a_published_prefix_checkpoint_goes_on_the_base_that_is_given(
    tiny_glm: Path, tmp_path: Path
) -> None:
    model: Any = load_model(tiny_glm)
    prefix = model.add_prefix(5, projection=True)
    saved = {f"transformer.prefix_encoder.{n}": p for n, p in prefix.state_dict().items()}
    torch.save(saved, tmp_path / "pytorch_model.bin")
    config = json.loads((tiny_glm / "config.json").read_text())
    config |= {"pre_seq_len": 5, "prefix_projection": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find(str(tmp_path), [f"model.path={tiny_glm}"])
    assert found.method == PTuningV2(num_virtual_tokens=5, projection=True)
    torch.testing.assert_close(logits(found.load("cpu")), logits(model.eval()))


def test_virtual_tokens_take_their_room_from_the_models_length(
    tiny_glm: Path, tmp_path: Path
) -> None:
    from raytune_glm.methods import PromptTuning

    method = PromptTuning(num_virtual_tokens=12)
    model: Any = method.apply(load_model(tiny_glm), find(str(tiny_glm)).checkpoint.family)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    method.save(model, weights, tmp_path)
    found = find(str(tmp_path))
    assert found.max_length == find(str(tiny_glm)).max_length - 12
    assert saved_method(tmp_path) == method


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("llama", r"best was trained on .*tiny-glm and does not fit the base .*base \(llama\): "),
        ("tokenizer", r"must hold a tokenizer file"),
    ],
)
def test_an_adapter_of_another_base_is_refused_with_the_names_of_both(
    results: Path, tmp_path: Path, kind: str, message: str
) -> None:
    base = write_llama(tmp_path / "base")
    if kind == "tokenizer":
        (base / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=message):
        find(str(results), [f"model.path={base}"])


def test_an_adapter_of_another_family_of_the_same_sizes_is_refused(
    results: Path, tiny_glm: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_glm, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "family": "chatglm2"}))
    with pytest.raises(ModelError, match=r"tiny-glm and does not .*: that is chatglm3, and this"):
        find(str(results), [f"model.path={base}"])


def test_an_adapter_of_a_base_of_another_size_is_refused_with_the_module(tmp_path: Path) -> None:
    from tests.asking.conftest import write_adapter

    small = write_llama(tmp_path / "small")
    large = write_llama(tmp_path / "large", intermediate_size=64)
    adapter = write_adapter(small, tmp_path / "adapter", seed=1)
    with pytest.raises(ModelError, match=r"mlp\.\w+ with 48 (in|out)puts, and the model's has 64"):
        find(str(adapter), [f"model.path={large}"])


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_that_was_saved_empty_is_refused(
    results: Path, tmp_path: Path, file: str
) -> None:
    # Alpaca-LoRA's users had adapter files of 443 bytes: loading them changes nothing, in silence.
    adapter = Path(shutil.copytree(results / "best", tmp_path / "mine"))
    (adapter / "adapter_model.safetensors").unlink()
    save: Any = save_file if file.endswith("safetensors") else torch.save
    save({}, adapter / file)
    with pytest.raises(ModelError, match=r"mine holds no LoRA weights \(0 tensors\): it was saved"):
        find(str(adapter))


def test_an_adapter_that_was_cut_short_is_called_damaged(results: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(results / "best", tmp_path / "mine"))
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"^the weight file .* is damaged: it has \d+ bytes"):
        find(str(adapter))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_of_a_base_of_another_size_are_refused(tmp_path: Path, kind: str) -> None:
    from raytune_glm.methods import PromptTuning

    small = write_llama(tmp_path / "small")
    large = write_llama(tmp_path / "large", hidden_size=64)
    method = {"prefix": PTuningV2(), "prompt": PromptTuning()}[kind]
    model: Any = method.apply(load_model(small), find(str(small)).checkpoint.family)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    method.save(model, weights, tmp_path / "adapter")
    assert find(str(tmp_path / "adapter")).base.path == str(small)
    with pytest.raises(ModelError, match=r"large \(llama\): its virtual tokens have \d+ values"):
        find(str(tmp_path / "adapter"), [f"model.path={large}"])


@pytest.mark.parametrize(
    ("named", "overrides", "message"),
    [
        ("no/such/folder", [], "the model folder no/such/folder does not exist"),
        ("hollow", [], "hollow must be a model .* an adapter .* but is none of them"),
        ("begun", [], "the sweep in .*begun has no winner yet: let it end, or name the folder"),
        ("a_file", [], "a model must be a folder, but .*a_file is a file"),
        ("peft", [], "must be of LORA, PREFIX_TUNING or PROMPT_TUNING, but has peft_type='IA3'"),
        ("method", [], "must name one of lora, .*, but has name='lore'"),
        ("nameless", [], "nameless does not say on which base it was trained: add model.path="),
    ],
)
def test_what_is_none_of_these_is_refused(
    tmp_path: Path, named: str, overrides: list[str], message: str
) -> None:
    for name, file, text in (
        ("hollow", "notes.txt", ""),
        ("begun", "sweep.yaml", "{}"),
        ("peft", "adapter_config.json", '{"peft_type": "IA3"}'),
        ("method", "method.json", '{"name": "lore"}'),
        ("nameless", "method.json", '{"name": "full"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    (tmp_path / "a_file").touch()
    place = tmp_path / named if (tmp_path / named).exists() else named
    with pytest.raises(ModelError, match=message):
        find(str(place), overrides)


def test_only_settings_of_the_base_can_be_given(tiny_glm: Path, results: Path) -> None:
    for override in ("train.seed=3", "model.size=3", "model.path"):
        with pytest.raises(ConfigError, match=r"key=value with one of model.path, .*, but got"):
            find(str(results), [override])
    with pytest.raises(ConfigError, match=r"precision: must be .fp32., .bf16. or .fp16., but"):
        find(str(results), ["model.precision=fp8"])
    with pytest.raises(ModelError, match=r"`model.path` is the base of an adapter, but"):
        find(str(tiny_glm), ["model.path=/elsewhere"])


@pytest.mark.parametrize("command", [merge, predict, chat])
def test_a_command_ends_with_status_2_and_one_message_where_nothing_can_be_done(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a"}\n')
    places = {merge: ["out"], predict: [str(rows), str(tmp_path / "out.jsonl")], chat: []}
    assert command.main(["no/such/folder", *places[command]]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: the model folder no/such/folder does not exist")
    assert len(told.err.splitlines()) == 1
