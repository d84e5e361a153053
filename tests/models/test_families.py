"""What every family must do alike: train under LoRA, checkpoint, and not care about padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from raytune_glm.models import inspect_folder, load_model
from tests.models.conftest import write_byte_tokenizer, write_chatglm
from tests.models.test_vectors import VECTORS

GMASK, SOP = 81, 84
"""ChatGLM's `[gMASK]` and `<sop>` in the 28-layer fixture's small vocabulary."""
NAMES = ["chatglm", "chatglm2", "chatglm3", "chatglm4", "glm", "glm4", "llama"]


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, chatglm_folder: Path, llama_folder: Path) -> Path:
    if request.param in ("chatglm4", "glm", "glm4"):
        return request.getfixturevalue(f"{request.param}_folder")  # type: ignore[no-any-return]
    return {
        "chatglm": VECTORS / "chatglm",
        "chatglm2": VECTORS / "chatglm2",
        "chatglm3": chatglm_folder,
        "llama": llama_folder,
    }[request.param]


@pytest.fixture(scope="module")
def chatglm4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of GLM-4-9B's first release: ChatGLM's layout, rotary base and epsilon apart."""
    return write_chatglm(
        tmp_path_factory.mktemp("chatglm4"),
        _name_or_path="THUDM/glm-4-9b-chat",
        rope_ratio=500,
        layernorm_epsilon=1.5625e-07,
    )


GLM_CONFIG: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def glm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of transformers' own `glm`, GLM-4-9B's release without remote code."""
    from transformers import GlmConfig, GlmForCausalLM

    folder = tmp_path_factory.mktemp("glm")
    torch.manual_seed(7)
    GlmForCausalLM(GlmConfig(**GLM_CONFIG)).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def glm4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of transformers' own `glm4`, the architecture of GLM-4-0414."""
    from transformers import Glm4Config, Glm4ForCausalLM

    folder = tmp_path_factory.mktemp("glm4")
    torch.manual_seed(7)
    Glm4ForCausalLM(Glm4Config(**GLM_CONFIG)).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


def rows(folder: Path) -> list[tuple[list[int], int]]:
    """Ids, and how many of the last ones carry a label."""
    if folder.name == "chatglm":
        return [
            ([5, 9, 60, 33, GMASK, SOP, 41, 42], 3),
            ([7, GMASK, SOP, 50], 2),
            ([21, 22, 23, GMASK, SOP, 61, 62], 3),
        ]
    return [([5, 9, 60, 270, 301, 12], 2), ([7, 80, 2], 1), ([31, 32, 33, 34], 2)]


def batch(folder: Path, *, side: str, pad: int) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows(folder)) + 2
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, num_labels in rows(folder):
        pads = width - len(ids)
        labels = [-100] * (len(ids) - num_labels) + ids[-num_labels:]
        for name, value, filler in (
            ("input_ids", ids, pad),
            ("attention_mask", [1] * len(ids), 0),
            ("labels", labels, -100),
        ):
            fill = [filler] * pads
            columns[name].append(fill + value if side == "left" else value + fill)
    return {name: torch.tensor(value) for name, value in columns.items()}


def loss_of(model: Any, **inputs: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(**inputs).loss)


def test_left_right_and_no_padding_give_the_same_loss(folder: Path) -> None:
    model: Any = load_model(folder)
    pad = model.config.pad_token_id or 0
    left = loss_of(model, **batch(folder, side="left", pad=pad))
    right = batch(folder, side="right", pad=pad)
    assert left == pytest.approx(loss_of(model, **right), abs=1e-5)
    del right["attention_mask"]
    assert left == pytest.approx(loss_of(model, **right), abs=1e-5)
    total, count = 0.0, 0
    for ids, num_labels in rows(folder):
        labels = [-100] * (len(ids) - num_labels) + ids[-num_labels:]
        alone = loss_of(model, input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        total, count = total + alone * num_labels, count + num_labels
    assert left == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("name", ["chatglm", "chatglm2"])
def test_places_that_alone_are_wanted_are_as_they_are_among_all(name: str) -> None:
    """What the last layer leaves out changes neither their states nor a gradient."""
    found = []
    for places in (None, torch.tensor([2, 4, 5])):
        model: Any = load_model(VECTORS / name)
        ids = torch.tensor([[5, 9, GMASK, SOP, 41, 42, 43], [7, 8, GMASK, SOP, 50, 51, 52]])
        states = model.base_model(input_ids=ids, places_to_keep=places).last_hidden_state
        wanted = states[:, [2, 4, 5]] if places is None else states
        wanted.square().mean().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((wanted.detach(), gradients))
    (states, gradients), (alone, alone_gradients) = found
    assert torch.allclose(states, alone, atol=1e-6)
    assert gradients.keys() == alone_gradients.keys()
    for parameter, gradient in gradients.items():
        assert torch.allclose(gradient, alone_gradients[parameter], atol=1e-5), parameter


def test_checkpointing_gives_the_same_gradients(folder: Path) -> None:
    results = []
    for checkpointed in (False, True):
        model: Any = load_model(folder)
        model.train()
        if checkpointed:
            model.activation_checkpointing_enable()
        model(**batch(folder, side="left", pad=model.config.pad_token_id or 0)).loss.backward()
        results.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in results[0].items():
        assert torch.allclose(gradient, results[1][name], atol=1e-6), name


# peft 0.21 asks transformers under a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_thirty_steps_of_lora_lower_the_loss(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from raytune_glm.models import FAMILIES, family_of
    from raytune_glm.models.folder import read_json

    torch.manual_seed(5)
    family = family_of(read_json(folder, "config.json"))
    if family.name == "generic":
        family = inspect_folder(folder).family
    assert family.name in FAMILIES
    lora = LoraConfig(r=4, target_modules=list(family.default_lora_modules))
    model: Any = get_peft_model(load_model(folder), lora)
    model.train()
    trainable = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    inputs = batch(folder, side="left", pad=model.config.pad_token_id or 0)
    losses = []
    for _ in range(30):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3


WIDE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "ffn_hidden_size": 128,
    "inner_hidden_size": 128,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "head_dim": 16,
}
"""Sizes that nf4 can do on a CPU: every linear's input is a multiple of 64."""


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_train_on_a_quantised_base(
    folder: Path, quantization: Literal["int8", "nf4"], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from raytune_glm.models import family_of

    config = json.loads((folder / "config.json").read_text())
    config |= {name: size for name, size in WIDE.items() if name in config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(5)
    load_model(tmp_path, random_weights=True).save_pretrained(tmp_path)
    base: Any = load_model(tmp_path, quantization=quantization)
    family = family_of(config)
    targets = list(family.fitted(family.shape(config, tmp_path)).mlp_modules)
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=targets))
    model.train()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=2e-2)
    inputs = batch(folder, side="left", pad=base.config.pad_token_id or 0)
    losses = []
    for _ in range(10):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert all("lora" in name for name in trainable)
    assert losses[-1] < losses[0] - 0.3


def test_rows_of_a_left_padded_batch_generate_what_they_generate_alone(folder: Path) -> None:
    model: Any = load_model(folder)
    pad = model.config.pad_token_id or 0
    inputs = batch(folder, side="left", pad=pad)
    del inputs["labels"]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": pad}
    together = model.generate(**inputs, **settings)
    for (ids, _), generated in zip(rows(folder), together, strict=True):
        alone = model.generate(torch.tensor([ids]), **settings)
        assert generated[-6:].tolist() == alone[0, -6:].tolist()
