"""Scores of answers, against cases worked out by hand."""

from __future__ import annotations

import pytest

from raytune_glm.errors import DataError
from raytune_glm.metrics import METRICS, AnswerMetric, weighted_mean


def score(name: str, prediction: str, *references: str) -> float:
    metric = METRICS[name]
    assert isinstance(metric, AnswerMetric)
    (value,) = metric.score([prediction], [references])
    return value


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("a_r_b\nc_r_d", "a_r_b\nc_r_d", 1.0),
        ("c_r_d\na_r_b", "a_r_b\nc_r_d", 1.0),  # order does not matter
        ("a_r_b", "a_r_b\nc_r_d", 2 / 3),  # P 1, R 1/2
        ("a_r_b\na_r_b\nx_r_y", "a_r_b\nc_r_d\ne_r_f", 0.4),  # P 1/2 as a set, R 1/3
        ("a_r_b\nc_r_d", "a_r_x", 0.0),
        ("a_r\na_r_b_c\nno triple\n\na_r_b", "a_r_b", 1.0),  # all other lines are left aside
        ("a_r_b_c", "a_r_b_c\na_r_b", 0.0),
        ("", "a_r_b", 0.0),
        ("a_r_b", "", 0.0),
        ("", "", 1.0),
        ("none", "", 1.0),
        (" a_r_b \r\n", "a_r_b", 1.0),
        ("发动机_部件故障_水温高", "发动机_部件故障_水温高\n风扇_部件故障_转速低", 2 / 3),
    ],
)
def test_triple_f1_of_one_answer(prediction: str, reference: str, expected: float) -> None:
    assert score("triple_f1", prediction, reference) == pytest.approx(expected, abs=1e-12)


def test_triple_f1_is_a_mean_over_rows_and_not_over_triples() -> None:
    metric = METRICS["triple_f1"]
    assert isinstance(metric, AnswerMetric)
    scores = metric.score(
        ["a_r_b\nc_r_d\ne_r_f", "x_r_y"],
        [("a_r_b\nc_r_d\ne_r_f",), ("a_r_b",)],
    )

    assert scores == [1.0, 0.0]
    assert weighted_mean(sum(scores), len(scores)) == 0.5


def test_the_best_of_several_references_counts() -> None:
    assert score("triple_f1", "a_r_b", "c_r_d", "a_r_b\nc_r_d") == pytest.approx(2 / 3)
    assert score("exact_match", "why?", "what?", "why?") == 1.0


@pytest.mark.parametrize(
    ("prediction", "expected"), [("yes", 1.0), (" yes\n", 1.0), ("Yes", 0.0), ("yes yes", 0.0)]
)
def test_exact_match_of_one_answer(prediction: str, expected: float) -> None:
    assert score("exact_match", prediction, "yes") == expected


def test_every_metric_is_entered_under_its_own_name_and_knows_what_it_needs() -> None:
    facts = {
        name: (metric.name, metric.direction, isinstance(metric, AnswerMetric))
        for name, metric in METRICS.items()
    }
    assert facts == {
        "eval_loss": ("eval_loss", "min", False),
        "triple_f1": ("triple_f1", "max", True),
        "exact_match": ("exact_match", "max", True),
    }


def test_a_row_without_its_reference_is_an_error() -> None:
    metric = METRICS["triple_f1"]
    assert isinstance(metric, AnswerMetric)
    with pytest.raises(ValueError, match="shorter"):
        metric.score(["a_r_b", "c_r_d"], [("a_r_b",)])


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="add up to 0"):
        weighted_mean(0.0, 0)


def test_triple_f1_refuses_rows_without_a_triple_and_no_others() -> None:
    metric = METRICS["triple_f1"]
    assert isinstance(metric, AnswerMetric)
    metric.refuse_unmeasurable([("no triple",), ("a_r_b",)])
    with pytest.raises(DataError, match="must have triples to find"):
        metric.refuse_unmeasurable([("an answer",), ("snake_case",)])
