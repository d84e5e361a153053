"""Tiny models of every architecture that methods are held to, and the rows to run them on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.models import family_of, load_model
from raytune_glm.models.family import Family, ModelShape

ARCHITECTURES = ["chatglm", "chatglm3", "llama", "qwen2"]
"""One of each code that runs a model. qwen2 has no family of its own, biases in its attention, and
a tied output. Every linear's input is a multiple of 64, as nf4 needs on a CPU."""

_CHATGLM_6B = {
    "_name_or_path": "THUDM/chatglm-6b",
    "model_type": "chatglm",
    "hidden_size": 64,
    "inner_hidden_size": 128,
    "num_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 96,
    "max_sequence_length": 64,
    "bos_token_id": 84,
    "eos_token_id": 85,
    "mask_token_id": 80,
    "gmask_token_id": 81,
    "pad_token_id": 3,
}
_CHATGLM3 = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "num_layers": 3,
    "padded_vocab_size": 96,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "kv_channels": 16,
    "num_attention_heads": 4,
    "seq_length": 64,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
_QWEN2 = {**_LLAMA, "model_type": "qwen2", "tie_word_embeddings": True, "head_dim": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "chatglm": _CHATGLM_6B,
    "chatglm2": {**_CHATGLM3, "_name_or_path": "THUDM/chatglm2-6b"},
    "chatglm3": _CHATGLM3,
    "chatglm4": {**_CHATGLM3, "_name_or_path": "THUDM/glm-4-9b-chat", "rope_ratio": 500},
    "glm": {**_QWEN2, "model_type": "glm4", "attention_bias": True, "pad_token_id": 0},
    "llama": _LLAMA,
    "qwen2": _QWEN2,
}
EVERY_FAMILY = list(CONFIGS)
"""At least one architecture of every family; what is no name of one is `generic`."""
_PROMPT = (5, 6, 7, 81, 84)
"""Ends in ChatGLM-6B's `[gMASK] <sop>`; any ids to the others."""
_ANSWERS = ((9, 10, 11, 12), (13, 14))


@dataclass(frozen=True)
class Base:
    """A checkpoint, and what is known of it without loading it."""

    folder: Path
    family: Family
    shape: ModelShape
    options: dict[str, Any] = field(default_factory=dict)
    """How to load it: precision, quantization."""

    def load(self) -> Any:
        return load_model(self.folder, **self.options)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """Every architecture's checkpoint. Read-only."""
    return write_bases(CONFIGS, tmp_path_factory)


def write_bases(
    configs: Mapping[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Base]:
    """Write a checkpoint of each configuration, random weights of visible size."""
    found = {}
    for name, config in configs.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(7)
        model: Any = load_model(_write(folder, config), random_weights=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        saved = json.loads((folder / "config.json").read_text())
        family = family_of(saved)
        shape = family.shape(saved, folder)
        found[name] = Base(folder, family.fitted(shape), shape)
    return found


def _write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, bases: dict[str, Base]) -> Base:
    """Each architecture in turn."""
    return bases[request.param]


def batch(*, padding: str = "right") -> dict[str, torch.Tensor]:
    """Two rows of unlike lengths with labels on the answers, pads on the given side."""
    rows = [(*_PROMPT, *_ANSWERS[0]), (*_PROMPT[1:], *_ANSWERS[1])]
    width = max(map(len, rows))
    ids, mask, labels = [], [], []
    for row, answer in zip(rows, _ANSWERS, strict=True):
        pads, own = [0] * (width - len(row)), [-100] * (len(row) - len(answer))
        sides = (pads, []) if padding == "left" else ([], pads)
        hidden = [[-100] * len(side) for side in sides]
        ids.append([*sides[0], *row, *sides[1]])
        mask.append([*sides[0], *[1] * len(row), *sides[1]])
        labels.append([*hidden[0], *own, *answer, *hidden[1]])
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def prompts() -> dict[str, torch.Tensor]:
    """Two prompts of unlike lengths, pads on the left."""
    return {
        "input_ids": torch.tensor([list(_PROMPT), [0, *_PROMPT[1:]]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
    }
