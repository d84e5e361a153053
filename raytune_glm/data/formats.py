"""The row formats, told apart by their fields, and what each one's row becomes.

To add a format, write a function from a row's object to examples and enter it in `FORMATS`. The
function raises `FormatError` with what is wrong with the row; `reading` adds the file and the line.
Read next: `reading`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_glm.models.family import Message, Role


class FormatError(ValueError):
    """What is wrong with one row, without the place where it stands."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A conversation up to the answer, and the answers that count as right."""

    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    """At least one. Training uses the first; evaluation compares with all of them."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row format."""

    fields: tuple[str, ...]
    """Fields that a row must have; a row that has them all is of this format."""

    optional: tuple[str, ...] = ()
    """Fields that a row may have. All others (`id`, `category`, ...) are left aside."""

    read: Callable[[Mapping[str, Any]], Iterator[Example]]
    """Turn a row into its examples (one, but for `instances`), or raise `FormatError`."""

    answered: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda record: None
    """Give a row that asks and has no answer with an empty one; None where it has one already."""


def describe(value: Any) -> str:
    """Say what a JSON value is in the words of JSON, with the value itself where it is short."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"a text of {len(value)} characters"
    return "a list" if isinstance(value, list) else "an object"


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"`{name}` must be text, but is {describe(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"`{name}` must be valid text, but its character {error.start + 1} is half of a "
            "surrogate pair; write the row again with whole characters"
        ) from None
    return value


def _answers(value: Any, name: str) -> tuple[str, ...]:
    """Read an answer: a text, or a list of texts of which each is a right answer."""
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise FormatError(f"`{name}` must be text or a list of texts, but is {describe(value)}")
        return (_text(value, name),)
    if not value:
        raise FormatError(f"`{name}` must have at least one text, but is an empty list")
    return tuple(_text(item, f"{name}[{index}]") for index, item in enumerate(value))


def _optional_text(record: Mapping[str, Any], name: str) -> str:
    """Read a field that may be missing or null, which both mean no text."""
    value = record.get(name)
    return "" if value is None else _text(value, name)


def _items(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else describe(value)
        raise FormatError(f"`{name}` must be a list with at least one item, but is {found}")
    return value


def _user(*parts: str) -> Message:
    return Message(role="user", parts=parts)


def _alpaca_turns(record: Mapping[str, Any]) -> list[Message]:
    """Read the turns before the last question: `system`, and `history` as pairs of texts."""
    turns = []
    if system := _optional_text(record, "system"):
        turns.append(Message(role="system", parts=(system,)))
    history = record.get("history")
    if history is not None and not isinstance(history, list):
        raise FormatError(f"`history` must be a list, but is {describe(history)}")
    for index, pair in enumerate(history or ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError(f"`history[{index}]` must be a list of a question and its answer")
        turns.append(_user(_text(pair[0], f"history[{index}][0]")))
        answer = _text(pair[1], f"history[{index}][1]")
        turns.append(Message(role="assistant", parts=(answer,)))
    return turns


def _read_alpaca(record: Mapping[str, Any]) -> Iterator[Example]:
    instruction = _text(record["instruction"], "instruction")
    question = _user(instruction, _optional_text(record, "input"))
    answers = _answers(record["output"], "output")
    yield Example(prompt=(*_alpaca_turns(record), question), answers=answers)


def _read_instances(record: Mapping[str, Any]) -> Iterator[Example]:
    instruction = _text(record["instruction"], "instruction")
    for index, instance in enumerate(_items(record["instances"], "instances")):
        name = f"instances[{index}]"
        if not isinstance(instance, dict) or "output" not in instance:
            raise FormatError(f"`{name}` must be an object with `input` and `output`")
        given = _text(instance["input"], f"{name}.input") if "input" in instance else ""
        answers = _answers(instance["output"], f"{name}.output")
        yield Example(prompt=(_user(instruction, given),), answers=answers)


def _read_pair(source: str, answer: str) -> Callable[[Mapping[str, Any]], Iterator[Example]]:
    def read(record: Mapping[str, Any]) -> Iterator[Example]:
        prompt = (_user(_text(record[source], source)),)
        yield Example(prompt=prompt, answers=_answers(record[answer], answer))

    return read


_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Names of roles: OpenAI's, ShareGPT's (`human`, `gpt`), and ChatGLM3's (`observation`)."""


def _with_field(answer: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Answer a row whose answer is a field of its own."""
    return lambda record: None if answer in record else {**record, answer: ""}


def _with_turn(turns: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Answer a conversation, in the words for roles that its last turn uses."""

    def answered(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
        said = record[turns]
        last = said[-1] if isinstance(said, list) and said else None
        if not isinstance(last, dict):
            return None
        for role, content in (("role", "content"), ("from", "value")):
            if _ROLES.get(str(last.get(role)), "assistant") != "assistant":
                return {**record, turns: [*said, {role: "assistant", content: ""}]}
        return None

    return answered


def _read_chat(turns: str, role: str, content: str) -> Callable[..., Iterator[Example]]:
    def read(record: Mapping[str, Any]) -> Iterator[Example]:
        messages = [
            _message(turn, name=f"{turns}[{index}]", role=role, content=content)
            for index, turn in enumerate(_items(record[turns], turns))
        ]
        if messages[-1].role != "assistant":
            raise FormatError(
                f"`{turns}` must end with what the assistant says, but its last {role} is "
                f"{record[turns][-1][role]!r}; remove the turns after the last answer"
            )
        if len(messages) < 2 or messages[-2].role not in ("user", "tool"):
            raise FormatError(
                f"`{turns}` must have a turn of the user or a tool right before the last answer"
            )
        yield Example(prompt=tuple(messages[:-1]), answers=(messages[-1].content,))

    return read


def _read_conversations(record: Mapping[str, Any]) -> Iterator[Example]:
    """ShareGPT has `from` and `value` in a turn, ChatGLM3's own demo `role` and `content`."""
    turns = _items(record["conversations"], "conversations")
    first = turns[0]
    keys = ("role", "content") if isinstance(first, dict) and "role" in first else ("from", "value")
    return _read_chat("conversations", *keys)(record)


def _message(turn: Any, *, name: str, role: str, content: str) -> Message:
    if not isinstance(turn, dict) or role not in turn or content not in turn:
        raise FormatError(f"`{name}` must be an object with `{role}` and `{content}`")
    who = _text(turn[role], f"{name}.{role}")
    if who not in _ROLES:
        raise FormatError(f"`{name}.{role}` must be one of {', '.join(_ROLES)}, but is {who!r}")
    return Message(role=_ROLES[who], parts=(_text(turn[content], f"{name}.{content}"),))


FORMATS: dict[str, Format] = {
    "alpaca": Format(
        fields=("instruction", "output"),
        optional=("input", "system", "history"),
        read=_read_alpaca,
        answered=_with_field("output"),
    ),
    "instances": Format(fields=("instruction", "instances"), read=_read_instances),
    "context": Format(
        fields=("context", "target"),
        read=_read_pair("context", "target"),
        answered=_with_field("target"),
    ),
    "prompt": Format(
        fields=("prompt", "completion"),
        read=_read_pair("prompt", "completion"),
        answered=_with_field("completion"),
    ),
    "messages": Format(
        fields=("messages",),
        read=_read_chat("messages", "role", "content"),
        answered=_with_turn("messages"),
    ),
    "conversations": Format(
        fields=("conversations",),
        read=_read_conversations,
        answered=_with_turn("conversations"),
    ),
}
"""The row formats. `instances` is that of self-instruct's seed tasks; `prompt` that of its prepared
rows; `context` that of ChatGLM-Tuning; `conversations` that of ShareGPT
and of ChatGLM3's fine-tuning demo."""


def find_format(record: Mapping[str, Any]) -> Format:
    """Tell a row's format by its fields.

    Args:
        record: The row's JSON object.

    Returns:
        The one format whose fields the row has.

    Raises:
        FormatError: The row has the fields of no format, or of two, or a misspelt optional field.
    """
    found = [name for name, known in FORMATS.items() if record.keys() >= set(known.fields)]
    if not found:
        raise FormatError(_unknown(record))
    if len(found) > 1:
        raise FormatError(
            f"the row must be of one format, but has the fields of both {found[0]} and {found[1]}; "
            "remove the fields that do not belong"
        )
    known = FORMATS[found[0]]
    for field in known.optional:
        if field in record:
            continue
        strangers = [key for key in record if key not in known.fields + known.optional]
        for near in difflib.get_close_matches(field, strangers, n=1, cutoff=0.8):
            raise FormatError(f"unknown field `{near}`; write `{field}` if that is what it is")
    return known


_OF_THE_CONVERSATION = frozenset({"history", "system", "tools", "input", "context"})
"""Fields that say something to the model, in one format or another, where they are not empty."""


def unread_fields(record: Mapping[str, Any], known: Format) -> list[str]:
    """Give the fields of a row that would say something to the model, and that its format lacks."""
    own = known.fields + known.optional
    strangers = _OF_THE_CONVERSATION & record.keys() - set(own)
    return sorted(field for field in strangers if record[field])


def _unknown(record: Mapping[str, Any]) -> str:
    """Word the fault of a row of no format: which field is missing, or which formats there are."""
    partial = {
        name: [field for field in known.fields if field not in record]
        for name, known in FORMATS.items()
        if any(field in record for field in (*known.fields, *known.optional))
    }
    if partial:
        missing = min(partial.values(), key=len)
        near = [
            f"`{key}` (did you mean `{field}`?)"
            for field in missing
            for key in difflib.get_close_matches(field, record.keys(), n=1, cutoff=0.6)
        ]
        instead = f", but has {' and '.join(near)}" if near else ""
        return f"the row must have the field {_names(missing)}{instead}"
    has = _names(list(record)) if record else "none"
    known_fields = [field for known in FORMATS.values() for field in known.fields]
    near = [
        f"; `{key}` is nearest to `{match[0]}`"
        for key in record
        if (match := difflib.get_close_matches(key, known_fields, n=1, cutoff=0.75))
    ]
    formats = " or ".join("{" + ", ".join(known.fields) + "}" for known in FORMATS.values())
    return f"the row must have the fields {formats}, but has {has}{''.join(near)}"


def _names(fields: list[str]) -> str:
    return " and ".join(f"`{field}`" for field in fields)
