"""Rows to be answered: every format, with right answers and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.data.questions import Question, read_questions
from raytune_glm.errors import DataError

CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
SHARED = [{"from": "human", "value": "q"}]


def read(tmp_path: Path, *rows: Any) -> list[Question]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_questions(str(path))


def said(question: Question) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in question.messages]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"instruction": "q", "input": ""}, {"output": "a"}),
        ({"context": "q"}, {"target": "a"}),
        ({"prompt": "q"}, {"completion": "a"}),
        ({"conversations": SHARED}, {"conversations": [*SHARED, {"from": "gpt", "value": "a"}]}),
        (
            {"conversations": CHAT[1:]},
            {"conversations": [*CHAT[1:], {"role": "assistant", "content": "a"}]},
        ),
    ],
)
def test_a_row_asks_the_same_with_an_answer_and_without(
    tmp_path: Path, row: dict[str, Any], answer: dict[str, Any]
) -> None:
    bare, answered = read(tmp_path, row, {**row, **answer})
    assert said(bare) == said(answered) == [("user", "q")]
    assert (bare.references, answered.references) == ((), ("a",))
    assert (bare.record, answered.record) == (row, {**row, **answer})
    assert (bare.line, answered.line) == (1, 2)


def test_a_conversation_keeps_its_system_turn_and_may_wait_for_an_answer(tmp_path: Path) -> None:
    [question] = read(tmp_path, {"messages": CHAT})
    assert said(question) == [("system", "s"), ("user", "q")]
    assert question.references == ()


def test_null_is_no_answer_an_empty_text_is_one_and_a_list_has_several(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "output": output} for output in (None, "", ["a", "b"])]
    assert [question.references for question in read(tmp_path, *rows)] == [(), ("",), ("a", "b")]


def test_each_instance_of_a_seed_task_is_a_question_of_its_own(tmp_path: Path) -> None:
    instances = [{"input": "x", "output": "1"}, {"input": "y", "output": "2"}]
    found = read(tmp_path, {"instruction": "q", "instances": instances})
    assert [said(question)[0][1] for question in found] == ["qx", "qy"]
    assert [question.references for question in found] == [("1",), ("2",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("[]", "there is no row in it"),
        ('{"prompt": "a"}\n{"prompt": "b",\n', "rows.jsonl, line 2: broken JSON"),
        ('{"question": "a"}', "the row must have the fields"),
        ('{"input": "a"}', "must have the field `instruction` and `output`"),
        ('{"prompt": 3}', "`prompt` must be text, but is the number 3"),
        ('{"messages": []}', "`messages` must be a list with at least one item"),
        ('{"instruction": "a", "inputs": "b"}', "unknown field `inputs`; write `input`"),
        ("[1]", "the row must be an object"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_questions(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_questions(str(tmp_path / "rows.jsonl"))
