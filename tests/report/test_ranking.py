"""The leaderboard's Pareto front, and the table of variants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.metrics import METRICS
from raytune_glm.report.leaderboard import leaderboard
from raytune_glm.report.ranking import pareto_front
from raytune_glm.report.variants import bootstrap_interval, variants_table
from raytune_glm.search import SearchSettings
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

F1 = ("triple_f1", "trainable_parameters")


def row(number: int, f1: float, trainable: int | None = 10, **more: Any) -> TrialRow:
    values: dict[str, Any] = {
        "number": number,
        "id": f"{number:04d}",
        "state": State.COMPLETE,
        "params": {},
        "metrics": {"final": {}, "best": {"triple_f1": f1, "eval_loss": 1 - f1}},
        "best_step": 4,
        "steps": 4,
        "seconds": 2.0,
        "start_seconds": 1.0,
        "tokens_per_second": None,
        "peak_memory_bytes": None,
        "trainable_parameters": trainable,
    }
    return TrialRow(**{**values, **more})


def test_the_front_has_what_no_complete_trial_betters_in_everything() -> None:
    rows = [
        row(0, 0.9, 100),
        row(1, 0.8, 10),
        row(2, 0.7, 50),  # number 1 is better and smaller
        row(3, 0.8, 10),  # as good as number 1
        row(4, 0.99, 5, state=State.PRUNED),
        row(5, 0.99, None),
    ]
    assert pareto_front(rows, F1) == {0, 1, 3}


def test_the_leaderboard_marks_the_front_where_there_are_several_objectives() -> None:
    rows = [row(0, 0.9, 100), row(1, 0.8, 10), row(2, 0.7, 50)]
    head, lines = leaderboard(rows, METRICS["triple_f1"], ("trainable_parameters",))
    assert [dict(zip(head, line, strict=True))["front"] for line in lines] == ["*", "*", ""]
    assert "front" not in leaderboard(rows, METRICS["triple_f1"])[0]


def test_variants_stand_in_the_order_of_their_best_with_an_interval_over_dev_rows(
    tmp_path: Path,
) -> None:
    results = ResultsFolder(tmp_path)
    space = {"method": {"one_of": {"lora": {}, "full": {}, "freeze": {}}}}
    search = SearchSettings.model_validate({"space": space, "metric": "exact_match"})

    def of(number: int, name: str, score: float, **more: Any) -> TrialRow:
        metrics = {"final": {}, "best": {"exact_match": score, "eval_loss": 1.0}}
        params = {"method": {"name": name}}
        return row(number, 0.0, params=params, metrics=metrics, **more)

    rows = [
        of(0, "lora", 0.5, steps=2, state=State.PRUNED),
        of(1, "full", 0.6, device_seconds=8.0),
        of(2, "lora", 0.75, device_seconds=4.0),
        of(3, "freeze", 0.0, state=State.FAILED),
    ]
    answers = [{"prediction": "a", "references": ["a" if right else "b"]} for right in (1, 1, 1, 0)]
    path = results.trial("0002") / "predictions.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
    table = variants_table(rows, search, results)
    assert table is not None
    head, lines = table
    assert [line[0] for line in lines] == ["lora", "full", "freeze"]
    lora = dict(zip(head, lines[0], strict=True))
    assert lora == {
        "method": "lora",
        "exact_match": "0.7500",
        "95 %": "0.2500 to 1.0000",
        "best trial": "0002",
        "trials": "2",
        "complete": "1",
        "steps": "6",
        "seconds": "6",
    }
    assert lines[1][2] == "", "without answers there is no interval"
    assert lines[2][1] == "", "a failed trial has no score to show"


def test_what_was_forgotten_stands_beside_the_scores_where_it_was_measured() -> None:
    def of(number: int, **values: float) -> TrialRow:
        best = {"triple_f1": 0.5, "eval_loss": 1.0, **values}
        return row(number, 0.5, metrics={"final": {}, "best": best})

    head, lines = leaderboard([of(0, forgetting=0.25), of(1)], METRICS["triple_f1"])
    column = head.index("forgetting")
    assert [line[column] for line in lines] == ["0.2500", ""]
    assert "forgetting" not in leaderboard([of(1)], METRICS["triple_f1"])[0]
    less = of(2, forgetting=-0.5, triple_f1=0.25)
    assert pareto_front([of(0, forgetting=0.25), less], ("triple_f1", "forgetting")) == {0, 2}


def test_an_interval_over_rows_is_that_of_the_binomial() -> None:
    # 60 of 100 right: 0.6 +- 1.96 * sqrt(0.6 * 0.4 / 100)
    low, high = bootstrap_interval([1.0] * 60 + [0.0] * 40)
    assert (low, high) == (pytest.approx(0.504, abs=0.02), pytest.approx(0.696, abs=0.02))
