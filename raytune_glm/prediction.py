"""Answering a file of rows: in batches, scored where it is known what is right, resumable.

Answers are kept in `<out>.partial` as they come; `<out>` itself is there once it is whole. Read
next: `answering`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.answering import Sampling, Speaker
from raytune_glm.data.questions import Question
from raytune_glm.errors import ConfigError, DataError, ResourceError
from raytune_glm.metrics import METRICS, AnswerMetric, weighted_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from raytune_glm.models.family import Family


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one row."""

    row: int
    """Number of the row, from 0."""
    prediction: str
    tokens: int
    """Tokens generated."""


class PartialAnswers:
    """The answers of a prediction that is not over, on disk as soon as they are there.

    Args:
        out: Where all answers go in the end.
        settings: What the answers depend on, as plain data.

    Raises:
        ConfigError: What is on disk was made with other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        lines = _whole_lines(self.path)
        if lines and lines[0] != settings:
            changed = sorted(
                key
                for key in settings.keys() | lines[0].keys()
                if settings.get(key) != lines[0].get(key)
            )
            raise ConfigError(
                f"{self.path} holds answers that were made otherwise (another "
                f"{', '.join(changed)}): give what was given then to go on, or remove it"
            )
        if not lines:
            files.write_text(self.path, json.dumps(settings, ensure_ascii=False) + "\n")
        self.answers = {line["row"]: Answer(**line) for line in lines[1:]}

    def add(self, answer: Answer) -> None:
        """Keep an answer."""
        files.append_line(self.path, asdict(answer))
        self.answers[answer.row] = answer

    def remove(self) -> None:
        """Forget them, once all are where they belong."""
        self.path.unlink()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read a partial file; a line that a kill cut short is taken off the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        files.write_text(path, whole)
    return files.read_lines(path)


@dataclass(kw_only=True)
class Predictor:
    """A model that answers rows in batches of like length.

    Which rows share a batch, and the random stream of each batch, depend on rows and settings
    alone: a prediction that is stopped and resumed gives what an undisturbed one gives.
    """

    speaker: Speaker
    sampling: Sampling
    batch_size: int
    seed: int
    seconds: float = 0.0
    """Time spent in generating."""
    tokens: int = 0
    """Tokens generated."""

    def answer(
        self, prompts: Sequence[Sequence[int]], answered: Mapping[int, Answer]
    ) -> Iterator[list[Answer]]:
        """Answer the prompts that are not answered, a batch at a time, the longest first.

        What does not fit into memory is so found out at once.

        Raises:
            ResourceError: A batch does not fit into memory.
        """
        import torch

        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            if all(row in answered for row in rows):
                continue
            torch.manual_seed(self.seed + start)
            began = time.monotonic()
            try:
                ids = self.speaker.generate([prompts[row] for row in rows], self.sampling)
            except torch.OutOfMemoryError:
                raise ResourceError(
                    f"{len(rows)} rows of up to {max(len(prompts[row]) for row in rows)} tokens do "
                    f"not fit into memory: lower --batch-size={self.batch_size}"
                ) from None
            self.seconds += time.monotonic() - began
            counts = [self.speaker.num_tokens(own) for own in ids]
            self.tokens += sum(counts)
            yield [
                Answer(row=row, prediction=self.speaker.text(own), tokens=count)
                for row, own, count in zip(rows, ids, counts, strict=True)
                if row not in answered
            ]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The rows as ids to generate from."""

    ids: list[list[int]]
    num_cut: int
    """Rows of which something was cut off to keep within the limit."""


def encode(
    questions: Sequence[Question],
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_source_length: int,
) -> Prompts:
    """Turn rows into prompts, as `Family.encode_prompt` does it.

    Raises:
        DataError: A row cannot be put to this family.
    """
    prompts, num_cut = [], 0
    for question in questions:
        try:
            whole = family.encode_prompt(tokenizer, question.messages, max_source_length=_UNLIMITED)
            ids = whole
            if len(whole) > max_source_length:
                ids = family.encode_prompt(
                    tokenizer, question.messages, max_source_length=max_source_length
                )
        except DataError as error:
            raise DataError(f"{question.file}, line {question.line}: {error}") from error
        prompts.append(ids)
        num_cut += ids != whole
    return Prompts(ids=prompts, num_cut=num_cut)


_UNLIMITED = 10**9
"""More tokens than a row has."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good answers are, where it is known what is right."""

    by_row: dict[int, dict[str, float]] = field(default_factory=dict)
    """Number of a row that has references -> metric -> score."""
    means: dict[str, float] = field(default_factory=dict)
    """Metric -> its value over all rows that have references."""
    silent: dict[str, int] = field(default_factory=dict)
    """Metric -> on how many of those an answer is right that has nothing it looks for, if any."""


def score(questions: Sequence[Question], predictions: Sequence[str]) -> Scores:
    """Score answers by every metric that says something on these rows."""
    rows = [row for row, question in enumerate(questions) if question.references]
    if not rows:
        return Scores()
    references = [questions[row].references for row in rows]
    by_row: dict[int, dict[str, float]] = {row: {} for row in rows}
    means, silent = {}, {}
    for metric in METRICS.values():
        if not isinstance(metric, AnswerMetric):
            continue
        try:
            metric.refuse_unmeasurable(references)
        except DataError:
            continue
        scores = metric.score([predictions[row] for row in rows], references)
        means[metric.name] = weighted_mean(sum(scores), len(scores))
        if found := sum(map(metric.is_silent, references)):
            silent[metric.name] = found
        for row, value in zip(rows, scores, strict=True):
            by_row[row][metric.name] = value
    return Scores(by_row=by_row, means=means, silent=silent)


def write_predictions(
    out: Path, questions: Sequence[Question], predictions: Sequence[str], scores: Scores
) -> None:
    """Write a line a row, in the rows' order: its own fields, then what is ours."""
    lines = []
    for row, (question, prediction) in enumerate(zip(questions, predictions, strict=True)):
        line = {
            **question.record,
            "source": f"{question.file}, line {question.line}",
            "prediction": prediction,
        }
        if question.references:
            line |= {"references": list(question.references), "scores": scores.by_row[row]}
        lines.append(json.dumps(line, ensure_ascii=False))
    files.write_text(out, "\n".join(lines) + "\n")


def identity(folder: Path | None) -> list[list[Any]]:
    """Tell what was trained apart from what is trained later in its place."""
    if folder is None:
        return []
    stats = [(file, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in stats]
