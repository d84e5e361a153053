"""GLM-4: its tokenizer against the `tokenizers` library, its model against transformers' `glm`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.errors import ModelError
from raytune_glm.models import Message, inspect_folder, load_model, load_tokenizer, register
from raytune_glm.models.family import IGNORED_LABEL
from tests.models.conftest import CHATGLM_CONFIG, CORPUS, write_chatglm

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The fan doesn't turn at 12345 rpm.",
    "冷却水温度高，风扇不转。\n\n check  the relay \t",
    "泵 阀 👋 café",
    "",
    " ",
    "\n",
    "<|user|>\nabc[gMASK]<sop>",
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """A byte-level BPE tokenizer of the `tokenizers` library."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS] * 3, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def folder(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in the first release's layout, with the reference's vocabulary."""
    folder = write_chatglm(
        tmp_path_factory.mktemp("glm4"),
        _name_or_path="THUDM/glm-4-9b-chat",
        rope_ratio=500,
        layernorm_epsilon=1.5625e-07,
    )
    byte_of = {character: value for value, character in enumerate(byte_characters())}
    lines = []
    for token, rank in sorted(reference.get_vocab().items(), key=lambda item: item[1]):
        raw = bytes(byte_of[character] for character in token)
        lines.append(f"{base64.b64encode(raw).decode()} {rank}")
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ChatGLM4Tokenizer", "eos_token": "<|endoftext|>"})
    )
    return folder


def byte_characters() -> list[str]:
    """The character that stands for each byte in GPT-2's byte-level alphabet."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(value if value in printable else next(rest)) for value in range(256)]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def test_ids_are_those_of_the_tokenizers_library(tokenizer: Any, reference: Any) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text).ids
        assert tokenizer.decode(ids) == text


def test_command_tokens_lie_behind_the_vocabulary_in_published_order(
    tokenizer: Any, reference: Any
) -> None:
    first = reference.get_vocab_size()
    names = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(first, first + 7))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == first
    assert tokenizer.vocab_size == len(tokenizer) == first + 14
    ids = tokenizer.encode("abc")
    assert ids[:2] == [first + 2, first + 4]
    assert tokenizer.decode(ids) == "[gMASK]<sop>abc"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc"
    assert tokenizer.decode([9999]) == ""


def test_padding_is_on_the_left_with_positions(tokenizer: Any) -> None:
    batch = tokenizer(["abc", "the fan does not turn"], padding=True, return_tensors="pt")
    num_pads = int((batch["attention_mask"][0] == 0).sum())
    assert num_pads > 0
    assert batch["input_ids"][0, :num_pads].tolist() == [tokenizer.pad_token_id] * num_pads
    assert batch["position_ids"][0, : num_pads + 2].tolist() == [0] * num_pads + [0, 1]


def test_a_row_is_the_published_chat_format(folder: Path, tokenizer: Any) -> None:
    family = inspect_folder(folder).family
    assert family.name == "chatglm4"
    turns = [Message(role="user", parts=("the fan",)), Message(role="assistant", parts=("turn",))]
    row = family.encode(tokenizer, turns, max_length=90, max_source_length=60)
    assert tokenizer.decode(row.input_ids) == (
        "[gMASK]<sop><|user|>\nthe fan<|assistant|>\nturn<|endoftext|>"
    )
    learned = tokenizer.decode([label for label in row.labels if label != IGNORED_LABEL])
    assert learned == "<|assistant|>\nturn<|endoftext|>"
    prompt = family.encode_prompt(tokenizer, turns[:1], max_source_length=60)
    assert row.input_ids[: len(prompt)] == prompt
    assert family.answer(tokenizer, row.input_ids[len(prompt) :]) == "turn"
    long = [turns[0], Message(role="assistant", parts=("turn " * 90,))]
    assert len(family.encode(tokenizer, long, max_length=90, max_source_length=60).input_ids) == 90


def test_the_tokenizer_saves_and_loads_again_through_the_auto_class(
    tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CHATGLM_CONFIG))
    register()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)


def test_a_damaged_vocabulary_is_refused_with_its_line(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / "tokenizer.model").read_text().splitlines()
    (tmp_path / "tokenizer.model").write_text("\n".join([*lines[:3], "???", *lines[4:]]))
    with pytest.raises(ModelError, match=r"but line 4 does not: copy it again"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text("\n".join(lines[1:]))
    with pytest.raises(ModelError, match=r"must have a token for every single byte"):
        load_tokenizer(tmp_path)


def test_the_model_computes_what_transformers_glm_computes(folder: Path) -> None:
    from transformers import GlmConfig, GlmForCausalLM

    ours: Any = load_model(folder)
    config = ours.config
    theirs = GlmForCausalLM(
        GlmConfig(
            vocab_size=config.padded_vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.kv_channels,
            rms_norm_eps=config.layernorm_epsilon,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0 * config.rope_ratio,
                "partial_rotary_factor": 0.5,
            },
            pad_token_id=0,
        )
    ).eval()
    attention = ours.transformer.encoder.layers[0].self_attention
    sizes = [heads * attention.head_dim for heads in attention.num_heads]
    weights = {
        "model.embed_tokens.weight": ours.transformer.embedding.word_embeddings.weight,
        "model.norm.weight": ours.transformer.encoder.final_layernorm.weight,
        "lm_head.weight": ours.transformer.output_layer.weight,
    }
    for number, layer in enumerate(ours.transformer.encoder.layers):
        path = f"model.layers.{number}"
        fused = layer.self_attention.query_key_value
        for part in ("weight", "bias"):
            for name, value in zip("qkv", getattr(fused, part).split(sizes), strict=True):
                weights[f"{path}.self_attn.{name}_proj.{part}"] = value
        weights[f"{path}.self_attn.o_proj.weight"] = layer.self_attention.dense.weight
        weights[f"{path}.mlp.gate_up_proj.weight"] = layer.mlp.dense_h_to_4h.weight
        weights[f"{path}.mlp.down_proj.weight"] = layer.mlp.dense_4h_to_h.weight
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{path}.{name}.weight"] = getattr(layer, name).weight
    theirs.load_state_dict(weights)
    ids = torch.randint(3, 300, (2, 40))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with torch.no_grad():
        difference = ours(ids, attention_mask=mask).logits - theirs(ids, attention_mask=mask).logits
    assert difference[mask.bool()].abs().max() < 2e-5
