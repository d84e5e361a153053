"""Rows and prompts of LLaMA and generic models: Alpaca's template, and a tokenizer's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.errors import ConfigError, DataError
from raytune_glm.models import FAMILIES, Message, inspect_folder, load_tokenizer
from raytune_glm.models.family import IGNORED_LABEL
from tests.models.conftest import write_byte_tokenizer

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROW = [
    Message(role="user", parts=("check the relay", "the fan does not turn")),
    Message(role="assistant", parts=("the relay",)),
]
LONG = {"max_length": 900, "max_source_length": 800}


@pytest.fixture(scope="module")
def plain(llama_folder: Path) -> Any:
    return load_tokenizer(llama_folder)


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("templated")
    write_byte_tokenizer(folder, chat_template=TEMPLATE)
    return AutoTokenizer.from_pretrained(folder)


def learned(tokenizer: Any, row: Any) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORED_LABEL])


def test_without_a_chat_template_a_row_is_alpacas(plain: Any) -> None:
    row = FAMILIES["llama"].encode(plain, ROW, **LONG)
    text = plain.decode(row.input_ids)
    assert text.startswith("<s>Below is an instruction that describes a task, paired with an input")
    assert text.endswith(
        "### Instruction:\ncheck the relay\n\n### Input:\nthe fan does not turn\n\n"
        "### Response:\nthe relay</s>"
    )
    assert learned(plain, row) == "the relay</s>"
    assert not row.truncated


def test_an_instruction_without_input_has_no_input_heading(plain: Any) -> None:
    turns = [Message(role="user", parts=("check the relay", "")), ROW[1]]
    text = plain.decode(FAMILIES["llama"].encode(plain, turns, **LONG).input_ids)
    assert "### Input" not in text
    assert "describes a task. Write a response" in text


def test_with_a_chat_template_a_row_is_the_templates(templated: Any) -> None:
    row = FAMILIES["generic"].encode(templated, ROW, **LONG)
    assert templated.decode(row.input_ids) == (
        "<user>check the relay\nthe fan does not turn<|end|>\n<assistant>the relay<|end|>"
    )
    assert learned(templated, row) == "the relay<|end|>"


@pytest.mark.parametrize("which", ["plain", "templated"])
def test_a_prompt_is_the_exact_start_of_its_row(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    family = FAMILIES["llama"]
    for limit in (800, 150 if which == "plain" else 30):
        prompt = family.encode_prompt(tokenizer, ROW[:-1], max_source_length=limit)
        row = family.encode(tokenizer, ROW, max_length=900, max_source_length=limit)
        assert row.input_ids[: len(prompt)] == prompt
        assert len(prompt) <= limit


@pytest.mark.parametrize("which", ["plain", "templated"])
def test_every_answer_of_a_conversation_carries_loss(
    which: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(which)
    turns = [
        Message(role="system", parts=("be brief",)),
        *ROW,
        Message(role="user", parts=("why",)),
        Message(role="assistant", parts=("water",)),
    ]
    row = FAMILIES["llama"].encode(tokenizer, turns, **LONG)
    end = "</s>" if which == "plain" else "<|end|>"
    assert learned(tokenizer, row) == f"the relay{end}water{end}"
    assert "be brief" in tokenizer.decode(row.input_ids)


def test_a_source_that_is_too_long_keeps_its_template(plain: Any) -> None:
    turns = [Message(role="user", parts=("check the relay", "turn the fan " * 60)), ROW[1]]
    row = FAMILIES["llama"].encode(plain, turns, max_length=900, max_source_length=300)
    text = plain.decode(row.input_ids)
    assert row.truncated
    assert "### Instruction:\ncheck the relay\n\n### Input:\nturn the fan tu" in text
    assert text.endswith("\n\n### Response:\nthe relay</s>")
    num_source = row.labels.index(next(label for label in row.labels if label != IGNORED_LABEL))
    assert 290 <= num_source <= 300


def test_an_answer_that_is_too_long_is_cut_and_still_ends(templated: Any) -> None:
    turns = [ROW[0], Message(role="assistant", parts=("the relay " * 50,))]
    row = FAMILIES["generic"].encode(templated, turns, max_length=60, max_source_length=50)
    assert len(row.input_ids) == 60
    assert row.truncated
    assert templated.decode(row.input_ids).endswith("<|end|>")


def test_an_old_exchange_goes_before_the_question_is_cut(templated: Any) -> None:
    old = [Message(role="user", parts=("x " * 40,)), Message(role="assistant", parts=("y",))]
    row = FAMILIES["generic"].encode(templated, [*old, *ROW], max_length=99, max_source_length=60)
    alone = FAMILIES["generic"].encode(templated, ROW, max_length=99, max_source_length=60)
    assert row.input_ids == alone.input_ids
    assert row.truncated
    assert not alone.truncated


def test_a_limit_below_the_template_is_refused(plain: Any) -> None:
    with pytest.raises(
        DataError, match=r"`max_source_length` must leave room .* max_source_length=8"
    ):
        FAMILIES["llama"].encode_prompt(plain, ROW[:-1], max_source_length=8)


def test_generation_stops_where_the_template_ends_a_turn(plain: Any, templated: Any) -> None:
    assert FAMILIES["llama"].stop_token_ids(plain) == [plain.eos_token_id]
    assert FAMILIES["generic"].stop_token_ids(templated) == [
        templated.convert_tokens_to_ids("<|end|>"),
        templated.eos_token_id,
    ]
    ids = templated.encode("the relay<|end|>\nmore", add_special_tokens=False)
    assert FAMILIES["generic"].answer(templated, ids) == "the relay"


def test_a_conversation_must_end_with_who_is_asked_for(plain: Any) -> None:
    with pytest.raises(DataError, match=r"must end with a turn of the assistant, but got .*'user'"):
        FAMILIES["llama"].encode(plain, ROW[:1], **LONG)
    with pytest.raises(
        DataError, match=r"must end with a turn of the user or tool, but got no turn"
    ):
        FAMILIES["llama"].encode_prompt(plain, [], max_source_length=9)


def test_a_generic_model_is_announced_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    write_byte_tokenizer(tmp_path)
    with caplog.at_level(logging.INFO, logger="raytune_glm"):
        inspect_folder(tmp_path)
    assert "qwen2 has no family of its own here" in caplog.text


@pytest.mark.parametrize(
    ("template", "start", "end"),
    [
        ("alpaca", "<s>Below is an instruction that", "\n\n### Response:\nthe relay</s>"),
        ("alpaca_legacy", "<s>Below is an instruction that", "\n\n### Response:the relay</s>"),
        ("alpaca_short", "<s>### Instruction:\ncheck", "\n\n### Response:\nthe relay</s>"),
        ("vigogne", "<s>Ci-dessous se trouve une", "\n\n### Réponse:\nthe relay</s>"),
    ],
)
@pytest.mark.parametrize("name", ["llama", "generic"])
def test_a_named_template_decides_even_where_the_tokenizer_has_one(
    name: str, template: str, start: str, end: str, templated: Any
) -> None:
    family = FAMILIES[name].with_template(template)
    row = family.encode(templated, ROW, **LONG)
    text = templated.decode(row.input_ids)
    assert text.startswith(start)
    assert text.endswith(end)
    assert learned(templated, row) == "the relay</s>"
    prompt = family.encode_prompt(templated, ROW[:-1], max_source_length=800)
    assert row.input_ids[: len(prompt)] == prompt


def test_a_template_that_does_not_exist_or_has_no_effect_is_refused(
    llama_folder: Path, chatglm_folder: Path
) -> None:
    assert inspect_folder(llama_folder, template="vigogne").family.name == "llama"
    with pytest.raises(ConfigError, match=r"must be one of alpaca, .* but got template='vicuna'"):
        inspect_folder(llama_folder, template="vicuna")
    with pytest.raises(ConfigError, match=r"must be left out for chatglm3, whose chat format"):
        inspect_folder(chatglm_folder, template="alpaca")
