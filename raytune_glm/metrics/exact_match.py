"""`exact_match`: how often the model's answer is the right one, word for word."""

from __future__ import annotations

from collections.abc import Sequence

from raytune_glm.metrics.metric import AnswerMetric


class ExactMatch(AnswerMetric):
    """Share of rows whose generated answer equals one of the references.

    Blanks and line ends around an answer do not count; all else does. Masked out: nothing.
    Direction: more is better. Range: 0 to 1. Ranks: the rows' scores (0 or 1) and the number of
    rows are each added over all ranks, then divided.
    """

    name = "exact_match"
    direction = "max"
    ideal = 1.0
    worst = 0.0

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Score each answer by itself; see the class."""
        return [
            float(prediction.strip() in {reference.strip() for reference in row})
            for prediction, row in zip(predictions, references, strict=True)
        ]
