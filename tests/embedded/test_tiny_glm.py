"""The shipped checkpoint is small, loads as ChatGLM3, and does not know the fault-triple task."""

from __future__ import annotations

import json

import pytest
import torch

from raytune_glm.metrics import METRICS, AnswerMetric
from raytune_glm.models import Message, inspect_folder, load_model, load_tokenizer
from tests.shipped import MODEL, ROWS

MAX_BYTES = 12_000_000
NUM_ROWS = 40


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    lines = (ROWS / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:NUM_ROWS]]


def test_the_folder_is_at_most_12_megabytes() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= MAX_BYTES


def test_it_is_recognised_as_chatglm3_without_being_told() -> None:
    assert inspect_folder(MODEL).family.name == "chatglm3"


def test_its_tokenizer_gives_every_text_of_the_data_back(rows: list[dict[str, str]]) -> None:
    tokenizer = load_tokenizer(MODEL)
    for row in rows:
        for text in row.values():
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.decode(ids).lstrip() == text


def test_untouched_it_scores_below_one_fifth_on_dev(rows: list[dict[str, str]]) -> None:
    family = inspect_folder(MODEL).family
    tokenizer, model = load_tokenizer(MODEL), load_model(MODEL)
    answers = []
    for row in rows:
        question = Message(role="user", parts=(row["instruction"], row["input"]))
        prompt = family.encode_prompt(tokenizer, [question], max_source_length=128)
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=family.stop_token_ids(tokenizer),
            pad_token_id=0,
        )
        answers.append(family.answer(tokenizer, output[0, len(prompt) :].tolist()))
    metric = METRICS["triple_f1"]
    assert isinstance(metric, AnswerMetric)
    scores = metric.score(answers, [(row["output"],) for row in rows])
    assert sum(scores) / len(scores) < 0.2
