"""Reading what a ChatGLM model answered: tidied text, and ChatGLM3's tool calls.

Follows `process_response` of the three published `modeling_chatglm.py`, with two differences: a
tool call's arguments are read as literals and nothing is evaluated, and the history that is
given stays as it was. Read next: `tokenization`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TRAINING_TIME = "[[训练时间]]"
_TIME_GIVEN = "2023年"
"""What the published code says where a model asks for the end of its training."""
_WIDE_SIGNS = {",": "，", "!": "！", ":": "：", ";": "；", r"\?": "？"}
_CHINESE = "[\u4e00-\u9fff]"
_CODE_FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)

Turn = dict[str, Any]


def tidy(text: str, *, widen_signs: bool = False) -> str:
    """Strip a ChatGLM-6B or ChatGLM2-6B answer and fill in the time that it asks for.

    Args:
        text: What the model wrote.
        widen_signs: Write signs beside Chinese characters in full width, as ChatGLM-6B's code does,
            whose tokenizer knows the narrow ones only.
    """
    text = text.strip().replace(_TRAINING_TIME, _TIME_GIVEN)
    if widen_signs:
        for narrow, wide in _WIDE_SIGNS.items():
            text = re.sub(f"(?<={_CHINESE}){narrow}|{narrow}(?={_CHINESE})", wide, text)
    return text


def read_response(
    text: str, history: Sequence[Mapping[str, Any]]
) -> tuple[str | dict[str, Any], list[Turn]]:
    """Read a ChatGLM3-6B answer: text, or a tool call where its first line names a tool.

    Args:
        text: What the model wrote, perhaps in several turns of its own.
        history: The turns before, as `ChatGLMTokenizer.build_chat_input` takes them.

    Returns:
        The last turn's text, or the tool's `name` with its `parameters` (where the first turn of
        the history lists `tools` and the call can be read) or else its `content`; and the history
        with the model's turns behind it.
    """
    turns: list[Turn] = [dict(turn) for turn in history]
    has_tools = bool(turns) and turns[0]["role"] == "system" and "tools" in turns[0]
    answer: str | dict[str, Any] = ""
    for spoken in text.split("<|assistant|>"):
        name, line_break, content = spoken.partition("\n")
        if not line_break:
            name, content = "", spoken
        name, content = name.strip(), content.strip()
        turns.append({"role": "assistant", "metadata": name, "content": content})
        parameters = _call_arguments(content) if name and has_tools else None
        if not name:
            answer = content.replace(_TRAINING_TIME, _TIME_GIVEN)
        elif parameters is not None:
            answer = {"name": name, "parameters": parameters}
        else:
            answer = {"name": name, "content": content}
    return answer, turns


def _call_arguments(content: str) -> dict[str, Any] | None:
    """Read the keyword arguments of a call written as Python; None where there is no such."""
    fenced = _CODE_FENCE.search(content)
    try:
        call = ast.parse((fenced[1] if fenced else content).strip(), mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            return {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg is not None
            }
    except (SyntaxError, ValueError):
        return None
    return None
