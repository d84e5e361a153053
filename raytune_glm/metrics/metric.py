"""What a metric is. Read next: `triple_f1`, then the table in `raytune_glm.metrics`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal


class Metric(ABC):
    """A number by which trials are compared. Implementations are stateless.

    Every metric is a weighted mean over rows: a row has a value and a weight, and the score is
    `sum(value * weight) / sum(weight)`. Ranks are combined by summing the two sums over all ranks
    and dividing once, so that the score does not depend on how rows were divided among ranks.
    """

    name: str
    """Key in `METRICS`, value of `search.metric`, and name in every results file."""
    direction: Literal["max", "min"]
    """Whether more or less is better."""
    ideal: float
    """The best value there can be."""
    worst: float
    """The worst, such as 0 of a share; infinity where there is none."""


class AnswerMetric(Metric):
    """A metric of generated answers: each row has the same weight, 1."""

    @abstractmethod
    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Score each answer by itself.

        Args:
            predictions: Generated answers.
            references: For each answer, the texts that count as right, at least one.

        Returns:
            A score for each answer, in the same order.
        """

    def is_silent(self, references: Sequence[str]) -> bool:
        """Say whether nothing that the metric looks for is in a row's right answers.

        Where that is so, every answer without it is right. Most metrics look at the whole answer.
        """
        return False

    def refuse_unmeasurable(self, references: Sequence[Sequence[str]]) -> None:
        """Refuse rows on which the metric says nothing; most metrics say something on all.

        Raises:
            DataError: What the references lack.
        """


def preference(values: Mapping[str, float], metric: Metric) -> tuple[float, float]:
    """Give a key by which evaluations compare: the larger, the better.

    Args:
        values: What an evaluation measured; it has the metric and `eval_loss`.
        metric: What is optimized.

    Returns:
        The metric's value, turned so that more is better, then the loss: where a score over few
        rows is the same for two evaluations, the model that is less surprised by the answers is
        better.
    """
    value = values[metric.name]
    return (value if metric.direction == "max" else -value, -values["eval_loss"])


def weighted_mean(total: float, weight: float) -> float:
    """Make a score of the two sums of a metric, each summed over all rows of all ranks.

    Args:
        total: Sum of value times weight.
        weight: Sum of weights.

    Returns:
        The score.

    Raises:
        ValueError: The weights add up to zero: there was nothing to score.
    """
    if not weight:
        raise ValueError("a metric must have something to score, but its weights add up to 0")
    return total / weight
