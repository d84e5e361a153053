"""A conversation: remembered, forgotten where it is too long, stopped in the middle."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_glm import chat, merge, predict
from raytune_glm.answering import Sampling, Speaker
from raytune_glm.conversation import Conversation
from raytune_glm.errors import DataError
from raytune_glm.models import FAMILIES, Message, load_model, load_tokenizer

QUESTIONS = ["水温高，风扇不转。", "漏水的是哪个阀？", "继电器坏了吗？"]


@pytest.fixture(scope="module")
def speaker(tiny_glm: Path) -> Speaker:
    return Speaker(
        model=load_model(tiny_glm),
        family=FAMILIES["chatglm3"],
        tokenizer=load_tokenizer(tiny_glm),
        device="cpu",
    )


def conversation(speaker: Speaker, **options: Any) -> Conversation:
    given = {"sampling": Sampling(max_new_tokens=8), "max_length": 512, **options}
    return Conversation(speaker=speaker, **given)


def ask(talk: Conversation, question: str, *, stop_after: int | None = None) -> str:
    """Ask, and give the answer as it was written; `stop_after` presses a key at that token."""
    pieces: list[str] = []
    asked = 0

    def is_stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    talk.ask(question, pieces.append, is_stopped)
    return "".join(pieces)


def answer_to(speaker: Speaker, *turns: tuple[str, str]) -> str:
    messages = [Message(role=role, parts=(text,)) for role, text in turns]  # type: ignore[arg-type]
    ids = speaker.family.encode_prompt(speaker.tokenizer, messages, max_source_length=10**6)
    [answer] = speaker.generate([ids], Sampling(max_new_tokens=8))
    return speaker.text(answer)


def test_an_answer_is_given_to_all_that_was_said(speaker: Speaker) -> None:
    talk = conversation(speaker, system="你是维修工。")
    first, second = ask(talk, QUESTIONS[0]), ask(talk, QUESTIONS[1])
    system = ("system", "你是维修工。")
    asked = [("user", QUESTIONS[0]), ("assistant", first), ("user", QUESTIONS[1])]
    assert first == answer_to(speaker, system, asked[0])
    assert second == answer_to(speaker, system, *asked)
    assert [turn.content for turn in talk.turns] == [QUESTIONS[0], first, QUESTIONS[1], second]


def test_clear_forgets_it(speaker: Speaker) -> None:
    talk = conversation(speaker)
    first = ask(talk, QUESTIONS[0])
    ask(talk, QUESTIONS[1])
    talk.clear()
    assert ask(talk, QUESTIONS[0]) == first


def test_the_oldest_exchanges_give_way_and_the_system_turn_stays(speaker: Speaker) -> None:
    system = "你是维修工。"
    talk = conversation(speaker, system=system)
    for question in QUESTIONS[:2]:
        ask(talk, question)
    last = [turn.content for turn in talk.turns[2:]]
    # Room for the last exchange and a question, and for nothing else.
    kept = [
        Message(role="system", parts=(system,)),
        *talk.turns[2:],
        Message(role="user", parts=(QUESTIONS[2],)),
    ]
    ids = speaker.family.encode_prompt(speaker.tokenizer, kept, max_source_length=10**6)
    talk.max_length = len(ids) + 8
    assert talk.ask(QUESTIONS[2], lambda piece: None, lambda: False) == 1
    assert [turn.content for turn in talk.turns[:3]] == [*last, QUESTIONS[2]]
    expected = answer_to(
        speaker,
        ("system", system),
        ("user", last[0]),
        ("assistant", last[1]),
        ("user", QUESTIONS[2]),
    )
    assert talk.turns[3].content == expected


def test_a_question_longer_than_the_model_reads_is_refused_and_not_kept(speaker: Speaker) -> None:
    talk = conversation(speaker, max_length=40)
    ask(talk, "水")
    before = list(talk.turns)
    with pytest.raises(DataError, match=r"at most 32 tokens, .* 40 leave room .* of 8, but this"):
        ask(talk, "水温高，" * 50)
    assert talk.turns == before


def test_a_stopped_answer_is_kept_as_far_as_it_went(speaker: Speaker) -> None:
    whole = ask(conversation(speaker), QUESTIONS[0])
    talk = conversation(speaker)
    part = ask(talk, QUESTIONS[0], stop_after=4)
    assert whole.startswith(part)
    assert 0 < len(part) < len(whole)
    assert talk.turns[1].content == part


class Terminal(io.StringIO):
    """Collects what is written; Ctrl-C is pressed at the first piece of the first answer."""

    pressed = False

    def write(self, text: str) -> int:
        if not self.pressed and text.strip():
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def chat_with(
    monkeypatch: pytest.MonkeyPatch, model: Path, typed: str, *options: str
) -> tuple[int, str]:
    out = io.StringIO() if "--calm" in options else Terminal()
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    monkeypatch.setattr(sys, "stdout", out)
    given = [option for option in options if option != "--calm"]
    status = chat.main([str(model), "--temperature", "0", "--max-new-tokens", "8", *given])
    return status, out.getvalue()


def test_questions_may_come_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = f"{QUESTIONS[0]}\n\n{QUESTIONS[1]}\nclear\n{QUESTIONS[0]}\nstop\n{QUESTIONS[2]}\n"
    status, out = chat_with(monkeypatch, results, typed, "--calm")
    assert status == 0
    _, alone = chat_with(monkeypatch, results, QUESTIONS[0], "--calm")
    assert alone.strip()
    assert out.startswith(alone)
    assert out.endswith(alone)
    assert len(out) > 2 * len(alone)
    _, told = chat_with(monkeypatch, results, QUESTIONS[0], "--calm", "--system", "你是厨师。")
    assert told != alone


def test_ctrl_c_ends_an_answer_and_not_the_program(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    typed = f"{QUESTIONS[0]}\nclear\n{QUESTIONS[0]}\n"
    before = signal.getsignal(signal.SIGINT)
    status, out = chat_with(monkeypatch, results, typed)
    assert status == 0
    _, whole = chat_with(monkeypatch, results, QUESTIONS[0], "--calm")
    assert out.endswith(whole)
    stopped = out.removesuffix(whole).strip()
    assert whole.startswith(stopped)
    assert 0 < len(stopped) < len(whole.strip())
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_must_leave_room_for_its_question(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat.main([str(results), "--max-new-tokens", "512"]) == 2
    assert "leave room for the question in the 512 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (merge, ["--format", "--max-shard-size", "--precision"]),
        (
            predict,
            [
                *("--batch-size", "--device", "--max-new-tokens", "--max-source-length"),
                *("--num-beams", "--repetition-penalty", "--seed", "--temperature", "--top-k"),
                "--top-p",
            ],
        ),
        (
            chat,
            [
                *("--device", "--max-new-tokens", "--repetition-penalty", "--seed", "--system"),
                *("--temperature", "--top-k", "--top-p"),
            ],
        ),
    ],
)
def test_there_are_no_options_beside_these(
    command: Any, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    found = re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(found) == options
