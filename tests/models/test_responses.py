"""Reading answers and tool calls, against the original code and against what it should not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.models.chatglm.responses import read_response, tidy

TOOLS = [{"role": "system", "content": "x", "tools": [{"name": "get_weather"}]}]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["chatglm", "chatglm2"])
def test_answers_are_tidied_as_the_original_does(name: str, shared: Path) -> None:
    cases = json.loads((shared / "oracle" / name / "tokenizer_cases.json").read_text())
    assert len(cases["process_response"]) >= 5
    for case in cases["process_response"]:
        assert tidy(case["output"], widen_signs=name == "chatglm") == case["result"]


@pytest.mark.shared
def test_chatglm3s_answers_and_tool_calls_are_read_as_the_original_does(shared: Path) -> None:
    cases = json.loads((shared / "oracle" / "chatglm3" / "tokenizer_cases.json").read_text())
    assert len(cases["process_response"]) >= 5
    for case in cases["process_response"]:
        assert list(read_response(case["output"], case["history"])) == case["result"]


def test_reading_leaves_the_history_as_it_was() -> None:
    history: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
    _, turns = read_response("\n hello", history)
    assert history == [{"role": "user", "content": "hi"}]
    assert turns[-1] == {"role": "assistant", "metadata": "", "content": "hello"}


@pytest.mark.parametrize(
    "call",
    [
        "tool_call(path=__import__('os').getcwd())",
        "tool_call(city=open('/etc/passwd').read())",
        "tool_call('positional')",
        "tool_call(city=)",
        "x = 1",
    ],
)
def test_a_tool_call_that_is_no_plain_call_is_text_and_is_never_run(call: str) -> None:
    content = f"```python\n{call}\n```"
    answer, _ = read_response(f"get_weather\n{content}", TOOLS)
    assert answer == {"name": "get_weather", "content": content}


def test_arguments_may_be_any_literals() -> None:
    text = "get_weather\n```python\ntool_call(days=[1, 2], wind=True, near={'km': 3.5})\n```"
    assert read_response(text, TOOLS)[0] == {
        "name": "get_weather",
        "parameters": {"days": [1, 2], "wind": True, "near": {"km": 3.5}},
    }
