"""Checkpoint folders that cannot be used are refused at once, by name, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raytune_glm.errors import ModelError
from raytune_glm.models import FAMILIES, family_of, inspect_folder, load_model, load_tokenizer


@pytest.fixture
def copy(chatglm_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return shutil.copytree(chatglm_folder, tmp_path / "copy")


def rewrite(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_looking_at_a_folder_takes_milliseconds_and_no_torch(chatglm_folder: Path) -> None:
    program = (
        "import sys, time\n"
        "import raytune_glm.models as models\n"
        "start = time.perf_counter()\n"
        f"found = models.inspect_folder({str(chatglm_folder)!r})\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = {'torch', 'transformers', 'sentencepiece', 'huggingface_hub'} & set(sys.modules)\n"
        "print(found.family.name, found.shape.total_parameters > 0, sorted(heavy), seconds < 0.1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "chatglm3 True [] True"


def test_a_model_type_of_transformers_is_known_without_importing_it(llama_folder: Path) -> None:
    program = (
        "import sys\n"
        "from raytune_glm.models import family_of\n"
        "print(family_of({'model_type': 'qwen3'}).name, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["generic", "False"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"the model folder .*/nowhere does not exist: give the path"
    ):
        inspect_folder(tmp_path / "nowhere")


def test_a_missing_folder_beside_others_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"the model folder models/tiny does not exist"):
        inspect_folder("models/tiny")


def test_a_hub_id_that_cannot_be_fetched_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"some-org/some-model is no folder here, and as a hub id"):
        inspect_folder("some-org/some-model")
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("kind", ["safetensors", "bin", "both"])
def test_a_hub_id_is_fetched_with_one_copy_of_its_weights(
    chatglm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import huggingface_hub
    import torch
    from safetensors.torch import load_file

    repository, snapshot = tmp_path / "repository", tmp_path / "snapshot"
    shutil.copytree(chatglm_folder, repository)
    snapshot.mkdir()
    if kind != "safetensors":
        tensors = load_file(repository / "model.safetensors")
        torch.save(tensors, repository / "pytorch_model.bin")
    if kind == "bin":
        (repository / "model.safetensors").unlink()

    def download(hub_id: str, *, allow_patterns: list[str]) -> str:
        assert hub_id == "some-org/some-model"
        for pattern in allow_patterns:
            for file in repository.glob(pattern):
                shutil.copy(file, snapshot)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert inspect_folder("some-org/some-model").family.name == "chatglm3"
    assert not list(snapshot.glob("*.safetensors")) + list(snapshot.glob("*.bin"))
    assert load_model("some-org/some-model").config.num_layers == 2
    assert load_tokenizer("some-org/some-model").encode("fan")
    weights = {file.name for file in snapshot.iterdir()} & {
        "model.safetensors",
        "pytorch_model.bin",
    }
    assert weights == {"pytorch_model.bin" if kind == "bin" else "model.safetensors"}


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"a model must be a folder, but .* is a file"):
        inspect_folder(tmp_path / "model.bin")


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must hold config.json, but .* has none"):
        inspect_folder(tmp_path)


def test_a_broken_config_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        inspect_folder(copy)


def test_a_config_that_is_no_object_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config.json must hold a JSON object, but holds a list"):
        inspect_folder(copy)


def test_an_unknown_architecture_is_refused(copy: Path) -> None:
    rewrite(copy / "config.json", model_type="frobnicate", architectures=["FrobnicateForCausalLM"])
    message = r"model_type='frobnicate' \(FrobnicateForCausalLM\) is no architecture that can be"
    with pytest.raises(ModelError, match=message):
        inspect_folder(copy)
    with pytest.raises(ModelError, match=message):
        load_model(copy)


def test_a_size_that_is_missing_is_refused(copy: Path) -> None:
    rewrite(copy / "config.json", hidden_size="big")
    with pytest.raises(ModelError, match=r"`hidden_size` must be a positive integer, but got"):
        inspect_folder(copy)


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"must hold weights \(model.safetensors or pytorch_model"):
        inspect_folder(copy)


def test_a_folder_without_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match=r"must hold a tokenizer file \(tokenizer.model\), but"):
        inspect_folder(copy)
    with pytest.raises(ModelError, match=r"must hold a tokenizer file"):
        load_tokenizer(copy)


def test_a_damaged_tokenizer_file_is_refused(copy: Path) -> None:
    (copy / "tokenizer.model").write_bytes(b"no sentencepiece model")
    with pytest.raises(ModelError, match=r"tokenizer.model is damaged or no sentencepiece model"):
        load_tokenizer(copy)


@pytest.mark.parametrize("kept", [0, 5, 100, -7], ids=["empty", "length", "header", "data"])
def test_weights_that_were_cut_short_are_refused_by_file_name(copy: Path, kept: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"the weight file .*/model.safetensors is damaged: "):
        inspect_folder(copy)
    with pytest.raises(ModelError, match=r"the weight file .*/model.safetensors is damaged: "):
        load_model(copy)


def test_a_missing_shard_is_refused_by_name(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    (copy / "model.safetensors.index.json").write_text(
        json.dumps(
            {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
        )
    )
    with pytest.raises(ModelError, match=r"lists model-2.safetensors, but the file is not there"):
        inspect_folder(copy)


def test_a_checkpoint_that_does_not_say_which_chatglm_it_is_needs_the_setting(copy: Path) -> None:
    rewrite(copy / "config.json", _name_or_path="/home/me/my-model")
    rewrite(copy / "tokenizer_config.json", name_or_path=...)
    with pytest.raises(
        ModelError, match=r"chatglm3 or chatglm2 or chatglm4, .*: set `model.family` to"
    ):
        inspect_folder(copy)
    assert inspect_folder(copy, "chatglm2").family.name == "chatglm2"
    assert load_tokenizer(copy, family="chatglm3").convert_tokens_to_ids("<|user|>") > 0
    assert load_model(copy).config.num_layers == 2, "the architecture is the same"


@pytest.mark.parametrize(
    ("config_name", "tokenizer_name", "family"),
    [
        ("THUDM/chatglm2-6b", "THUDM/chatglm3-6b", "chatglm2"),
        ("THUDM/chatglm3-6b-32k", "", "chatglm3"),
        ("/data/chatglm2/tuned", "THUDM/chatglm3-6b-base", "chatglm3"),
        ("/data/ChatGLM2-6B/", "", "chatglm2"),
    ],
)
def test_the_names_in_both_configs_tell_chatglm2_from_3(
    copy: Path, config_name: str, tokenizer_name: str, family: str
) -> None:
    rewrite(copy / "config.json", _name_or_path=config_name)
    rewrite(copy / "tokenizer_config.json", name_or_path=tokenizer_name)
    assert inspect_folder(copy).family.name == family


def test_the_named_family_must_exist_and_fit(copy: Path, llama_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"got family='chatglm33': did you mean chatglm3\?"):
        inspect_folder(copy, "chatglm33")
    with pytest.raises(
        ModelError, match=r"got family='chatglm3' for a config.json of model_type='llama'"
    ):
        inspect_folder(llama_folder, "chatglm3")
    assert inspect_folder(llama_folder, "generic").family.name == "generic"


def test_generic_is_asked_last() -> None:
    assert list(FAMILIES)[-1] == "generic"
    assert family_of({"model_type": "llama"}).name == "llama"
    assert family_of({"model_type": "glm4"}).name == "glm"
    assert family_of({"model_type": "qwen3"}).name == "generic"
