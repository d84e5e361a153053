"""`triple_f1`: how many of the triples in the text the model found, and how many it made up."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_glm.errors import DataError
from raytune_glm.metrics.metric import AnswerMetric


class TripleF1(AnswerMetric):
    """F1 of extracted triples, by the rule of ChatGLM-Finetuning's `predict.py` (tag v0.1).

    An answer is cut into lines, and each line that has exactly three parts between `_` is a
    triple; all other lines are left aside. Per row, P and R are the shares of the predicted and of
    the right triples that are in both sets (a triple said twice counts once), and the row's score
    is `2PR / (P + R)`, or 0 where nothing is in both. The metric is the mean over rows, not over
    triples.

    Two cases that the published rule leaves open or decides otherwise: a row without a right triple
    scores 1 if none is predicted (the published code gives 0, which no model could better), and
    blanks around a line do not count. Where a row has several references the best one counts.
    Masked out: nothing. Direction: more is better. Range: 0 to 1. Ranks: the rows' scores and the
    number of rows are each added over all ranks, then divided.
    """

    name = "triple_f1"
    direction = "max"
    ideal = 1.0
    worst = 0.0

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Score each answer by itself; see the class."""
        return [
            max(_f1(triples(prediction), triples(reference)) for reference in row)
            for prediction, row in zip(predictions, references, strict=True)
        ]

    def is_silent(self, references: Sequence[str]) -> bool:
        """See `AnswerMetric.is_silent`: such a row has no triple."""
        return not any(triples(reference) for reference in references)

    def refuse_unmeasurable(self, references: Sequence[Sequence[str]]) -> None:
        """See `AnswerMetric.refuse_unmeasurable`: without a triple every silent model scores 1."""
        if all(map(self.is_silent, references)):
            raise DataError(
                "triple_f1 must have triples to find, but none of the dev answers has a line "
                "head_relation_tail: write search.metric=eval_loss or exact_match"
            )


def triples(answer: str) -> set[str]:
    """Find the lines of an answer that are triples, `head_relation_tail`."""
    lines = (line.strip() for line in answer.split("\n"))
    return {line for line in lines if line.count("_") == 2}


def _f1(predicted: set[str], right: set[str]) -> float:
    if not predicted and not right:
        return 1.0
    # 2PR / (P + R) with P = shared / predicted and R = shared / right.
    return 2 * len(predicted & right) / (len(predicted) + len(right))
