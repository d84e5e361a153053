"""`python -m raytune_glm.predict results/lora rows.jsonl answers.jsonl`: answer and score a file.

Read next: `tuned`, which finds what was named, and `prediction`, which answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
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
    from rich.console import Console

    from raytune_glm.answering import Sampling
    from raytune_glm.data.questions import Question
    from raytune_glm.prediction import PartialAnswers, Predictor
    from raytune_glm.tuned import Tuned

_RESERVED_TOKENS = 16
"""Of the model's length, for what a chat format puts around source and answer."""
_DEFAULT_BATCH_SIZE = 8
_DEFAULT_NEW_TOKENS = 256


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    hush_libraries()
    return exit_status(lambda: _predict(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.predict",
        description="Answer every row of a file, and score the answers where the right ones are "
        "there.",
        epilog="Run the same command again to go on where it was stopped.",
    )
    add_model(parser, kinds="an adapter's, or a model's or its hub id")
    parser.add_argument("rows", help="JSON or JSON Lines in any row format, answered or not")
    parser.add_argument("out", type=Path, help="the JSONL file to write; it must not exist")
    add_base_settings(parser, examples="model.path=/models/chatglm3-6b model.precision=bf16")
    trained = "default: what the model was trained with, else"
    for flag, kind, text in (
        ("--max-new-tokens", int, f"longest answer ({trained} {_DEFAULT_NEW_TOKENS})"),
        (
            "--max-source-length",
            int,
            f"longest question in tokens ({trained} what the model reads)",
        ),
        ("--batch-size", int, f"rows answered at once ({trained} {_DEFAULT_BATCH_SIZE})"),
        (
            "--temperature",
            float,
            "above 0: draw tokens instead of taking the likeliest (default: 0)",
        ),
        ("--top-p", float, "draw from the likeliest tokens of this probability together"),
        ("--top-k", int, "draw from so many likeliest tokens"),
        ("--num-beams", int, "answers followed at once, the likeliest of which is given"),
        ("--repetition-penalty", float, "above 1: repeat less"),
    ):
        parser.add_argument(flag, type=kind, metavar="N" if kind is int else "X", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn")
    add_device(parser)
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    from raytune_glm.data.questions import read_questions
    from raytune_glm.errors import ConfigError
    from raytune_glm.tuned import find

    out: Path = arguments.out
    if out.exists():
        raise ConfigError(f"{out} must not exist, but does: name another file, or remove it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out} must be in a folder that exists, but {out.parent} does not")
    questions = read_questions(arguments.rows)
    tuned = find(arguments.model, arguments.settings)
    settings = _settings(arguments, tuned)
    from rich.console import Console

    from raytune_glm.prediction import PartialAnswers, identity

    console = Console(soft_wrap=True)
    partial = PartialAnswers(
        out,
        {
            "model": tuned.base.model_dump(mode="json"),
            "trained": identity(tuned.folder),
            "rows": _digest(questions),
            **settings,
        },
    )
    console.print(f"model       {tuned.describe()}", highlight=False, markup=False)
    for note in tuned.notes:
        console.print(f"note        {note}", highlight=False, markup=False)
    try:
        _answer(arguments, tuned, settings, questions, partial, console)
    except KeyboardInterrupt:
        console.print(
            f"{len(partial.answers)} of {len(questions)} rows are answered: run the same command "
            "again to go on",
            highlight=False,
        )
        raise
    return 0


def _settings(arguments: argparse.Namespace, tuned: Tuned) -> dict[str, Any]:
    """Settle what was left out by what the model was trained with, and hold it to its length."""
    from raytune_glm.errors import ConfigError

    run, limit = tuned.run, tuned.max_length - _RESERVED_TOKENS
    new_tokens = min(_DEFAULT_NEW_TOKENS, limit // 2) if run is None else run.train.max_new_tokens
    new_tokens = arguments.max_new_tokens or new_tokens
    source = limit - new_tokens
    if run is not None:
        source = min(source, run.data.max_source_length)
    source = arguments.max_source_length or source
    if source < 1 or source + new_tokens > limit:
        raise ConfigError(
            f"question and answer must fit into the {tuned.max_length} tokens that the model "
            f"reads, {_RESERVED_TOKENS} of them for its chat format, but got max_source_length="
            f"{source} with max_new_tokens={new_tokens}: lower one"
        )
    known = run.train.eval_batch_size if run is not None else _DEFAULT_BATCH_SIZE
    batch_size = known if arguments.batch_size is None else arguments.batch_size
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, but got {batch_size}")
    sampling = {
        name: getattr(arguments, name)
        for name in ("temperature", "top_p", "top_k", "num_beams", "repetition_penalty")
        if getattr(arguments, name) is not None
    }
    settings = {
        "sampling": {"max_new_tokens": new_tokens, **sampling},
        "max_source_length": source,
        "batch_size": batch_size,
        "seed": arguments.seed,
    }
    _sampling(settings)
    return settings


def _sampling(settings: dict[str, Any]) -> Sampling:
    from raytune_glm.answering import Sampling

    return Sampling(**settings["sampling"])


def _digest(questions: list[Question]) -> str:
    from raytune_glm.data.cache import digest

    return digest([dict(question.record) for question in questions])


def _answer(
    arguments: argparse.Namespace,
    tuned: Tuned,
    settings: dict[str, Any],
    questions: list[Question],
    partial: PartialAnswers,
    console: Console,
) -> None:
    """Answer what is not answered, then write answers and scores and print them."""
    from raytune_glm import files
    from raytune_glm.answering import Speaker
    from raytune_glm.prediction import Predictor, encode, score, write_predictions

    family, tokenizer = tuned.checkpoint.family, tuned.load_tokenizer()
    source_length = settings["max_source_length"]
    prompts = encode(questions, family, tokenizer, max_source_length=source_length)
    if prompts.num_cut:
        console.print(
            f"note        {prompts.num_cut} row(s) are longer than max_source_length="
            f"{source_length} and were cut",
            highlight=False,
        )
    figures: dict[str, float] = {"num_rows": len(questions), "num_rows_cut": prompts.num_cut}
    if len(partial.answers) < len(questions):
        device = choose_device(arguments.device)
        predictor = Predictor(
            speaker=Speaker(
                model=tuned.load(device), family=family, tokenizer=tokenizer, device=device
            ),
            sampling=_sampling(settings),
            batch_size=settings["batch_size"],
            seed=settings["seed"],
        )
        _run(predictor, prompts.ids, partial, console)
        rate = predictor.tokens / predictor.seconds
        console.print(
            f"speed       {predictor.tokens:,} tokens in {predictor.seconds:.1f} s, {rate:,.1f} "
            "tokens a second",
            highlight=False,
        )
        figures["tokens_per_second"] = rate
    predictions = [partial.answers[row].prediction for row in range(len(questions))]
    scores = score(questions, predictions)
    out: Path = arguments.out
    write_predictions(out, questions, predictions, scores)
    summary = out.with_suffix(".metrics.json")
    scored = {"num_rows_scored": len(scores.by_row), "metrics": scores.means}
    files.write_json(summary, {"model": tuned.describe(), **settings, **figures, **scored})
    partial.remove()
    if scores.means:
        told = ", ".join(f"{name}={value:.4f}" for name, value in scores.means.items())
        console.print(f"scores      {told} over {len(scores.by_row)} rows", highlight=False)
    for name, count in scores.silent.items():
        console.print(
            f"note        {count} of them have an answer without anything that {name} looks for: "
            "there every answer without it counts as right",
            highlight=False,
        )
    console.print(
        f"written     {len(questions)} rows to {out}, figures to {summary}",
        highlight=False,
        markup=False,
    )


def _run(
    predictor: Predictor, prompts: list[list[int]], partial: PartialAnswers, console: Console
) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), "rows,", TimeElapsedColumn(), "gone,")
    with Progress(*columns, TimeRemainingColumn(), "left", console=console) as bar:
        task = bar.add_task("", total=len(prompts), completed=len(partial.answers))
        for answers in predictor.answer(prompts, dict(partial.answers)):
            for answer in answers:
                partial.add(answer)
            bar.update(task, completed=len(partial.answers))


if __name__ == "__main__":
    sys.exit(main())
