"""`python -m raytune_glm.chat results/lora`: talk to a model in the terminal.

`clear` forgets what was said, `stop` leaves; Ctrl-C ends an answer and not the program. Questions
may come through a pipe, a line each. Read next: `conversation`.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from raytune_glm.command import (
    add_base_settings,
    add_device,
    add_model,
    choose_device,
    exit_status,
    hush_libraries,
)

if TYPE_CHECKING:
    from raytune_glm.conversation import Conversation
    from raytune_glm.tuned import Tuned

_DEFAULT_NEW_TOKENS = 512


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    hush_libraries()
    return exit_status(lambda: _chat(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.chat",
        description="Talk to a model. clear: forget what was said. stop: leave. Ctrl-C: end an "
        "answer.",
    )
    add_model(parser, kinds="an adapter's, or a model's or its hub id")
    add_base_settings(parser, examples="model.path=/models/chatglm3-6b model.precision=bf16")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told at the start")
    for flag, kind, default, text in (
        ("--max-new-tokens", int, None, f"longest answer (default: {_DEFAULT_NEW_TOKENS})"),
        ("--temperature", float, 0.8, "how freely tokens are drawn; 0: always the likeliest"),
        (
            "--top-p",
            float,
            None,
            "draw from the likeliest tokens of this probability (default: 0.8)",
        ),
        ("--top-k", int, 0, "draw from so many likeliest tokens; 0: all"),
        ("--repetition-penalty", float, 1.0, "above 1: repeat less"),
        ("--seed", int, None, "of what is drawn (default: another each time)"),
    ):
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            flag, type=kind, default=default, metavar="N" if kind is int else "X", help=text + shown
        )
    add_device(parser)
    return parser


def _chat(arguments: argparse.Namespace) -> int:
    from raytune_glm.answering import Sampling
    from raytune_glm.tuned import find

    tuned = find(arguments.model, arguments.settings)
    drawn = arguments.temperature > 0
    longest = min(_DEFAULT_NEW_TOKENS, tuned.max_length // 2)
    sampling = Sampling(
        max_new_tokens=arguments.max_new_tokens or longest,
        temperature=arguments.temperature,
        top_p=(0.8 if drawn else 1.0) if arguments.top_p is None else arguments.top_p,
        top_k=arguments.top_k,
        repetition_penalty=arguments.repetition_penalty,
    )
    _require_room(sampling.max_new_tokens, tuned)
    _speak_utf8()
    _tell(f"loading {tuned.describe()}", *tuned.notes)
    conversation = _begin(tuned, sampling, arguments)
    _tell("clear: forget what was said   stop: leave   Ctrl-C: end an answer")
    _talk(conversation)
    return 0


def _require_room(max_new_tokens: int, tuned: Tuned) -> None:
    from raytune_glm.errors import ConfigError

    if max_new_tokens >= tuned.max_length:
        raise ConfigError(
            f"--max-new-tokens must leave room for the question in the {tuned.max_length} tokens "
            f"that the model reads, but got {max_new_tokens}: lower it"
        )


def _begin(tuned: Tuned, sampling: Any, arguments: argparse.Namespace) -> Conversation:
    import torch

    from raytune_glm.answering import Speaker
    from raytune_glm.conversation import Conversation

    device = choose_device(arguments.device)
    speaker = Speaker(
        model=tuned.load(device),
        family=tuned.checkpoint.family,
        tokenizer=tuned.load_tokenizer(),
        device=device,
    )
    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    return Conversation(
        speaker=speaker, sampling=sampling, max_length=tuned.max_length, system=arguments.system
    )


def _speak_utf8() -> None:
    """Read and write UTF-8 whatever the locale: a pipe has none, and Chinese needs it."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _tell(*lines: str) -> None:
    """Say what is neither question nor answer, which alone go to stdout."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _talk(conversation: Conversation) -> None:
    """Answer until the user leaves."""
    from raytune_glm.errors import DataError

    for question in _questions():
        if question == "clear":
            conversation.clear()
            _tell("(forgotten)")
            continue
        with _interruptible() as stopped:
            try:
                num_forgotten = conversation.ask(question, _write, stopped)
            except DataError as error:
                _tell(f"error: {error}")
                continue
        print(flush=True)
        if num_forgotten:
            _tell(f"(too long for the model: {num_forgotten} exchange(s) at the start forgotten)")


def _write(piece: str) -> None:
    print(piece, end="", flush=True)


def _questions() -> Iterator[str]:
    """Give the user's lines, blank ones left out, up to `stop` or the end of the input."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 - lets `input` edit a line, wide characters included
    while True:
        try:
            line = input("\nYou: ") if at_terminal else sys.stdin.readline()
        except EOFError:
            return
        except KeyboardInterrupt:
            _tell("\n(stop leaves)")
            continue
        if not at_terminal and not line:
            return
        question = line.strip()
        if question == "stop":
            return
        if question:
            yield question


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Have Ctrl-C end the answer at its next token; a second one ends the program."""
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
