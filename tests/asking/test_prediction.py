"""A file of rows answered: the same answers however often it is stopped, and the right scores."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from raytune_glm import predict
from raytune_glm.answering import Sampling, Speaker
from raytune_glm.data.questions import read_questions
from raytune_glm.errors import ConfigError
from raytune_glm.metrics import METRICS
from raytune_glm.prediction import Answer, PartialAnswers, Predictor, encode, score
from raytune_glm.score import score_adapter
from raytune_glm.tuned import find
from tests.shipped import ROWS

NUM_ROWS = 8


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The first test rows."""
    path = tmp_path / "rows.jsonl"
    lines = (ROWS / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:NUM_ROWS]), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def predictor(results: Path, **options: Any) -> Predictor:
    found = find(str(results))
    speaker = Speaker(
        model=found.load("cpu"),
        family=found.checkpoint.family,
        tokenizer=found.load_tokenizer(),
        device="cpu",
    )
    sampling = Sampling(max_new_tokens=6, temperature=1.5)
    return Predictor(speaker=speaker, sampling=sampling, batch_size=3, seed=4, **options)


def test_a_stopped_prediction_goes_on_to_the_answers_of_an_undisturbed_one(
    results: Path, rows: Path, tmp_path: Path
) -> None:
    one = predictor(results)
    prompts = encode(
        read_questions(str(rows)), one.speaker.family, one.speaker.tokenizer, max_source_length=120
    ).ids
    undisturbed = {a.row: a for batch in one.answer(prompts, {}) for a in batch}
    assert sorted(undisturbed) == list(range(NUM_ROWS))

    out = tmp_path / "out.jsonl"
    first = PartialAnswers(out, {"seed": 4})
    for batch in itertools.islice(one.answer(prompts, {}), 1):
        for answer in batch[:2]:  # killed in the middle of a batch
            first.add(answer)
    with first.path.open("a") as file:
        file.write('{"row": 7, "predi')  # and in the middle of a line
    second = PartialAnswers(out, {"seed": 4})
    assert second.answers == first.answers
    for batch in one.answer(prompts, dict(second.answers)):
        for answer in batch:
            second.add(answer)
    assert second.answers == undisturbed
    assert PartialAnswers(out, {"seed": 4}).answers == undisturbed
    assert len({answer.prediction for answer in undisturbed.values()}) > 1


def test_answers_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    partial = PartialAnswers(tmp_path / "out.jsonl", {"seed": 4, "batch_size": 3})
    partial.add(Answer(row=0, prediction="a", tokens=1))
    with pytest.raises(ConfigError, match=r"made otherwise \(another seed\): give what was given"):
        PartialAnswers(tmp_path / "out.jsonl", {"seed": 5, "batch_size": 3})


def test_tokens_are_counted_to_each_answers_end(results: Path, rows: Path) -> None:
    one = predictor(results)
    prompts = encode(
        read_questions(str(rows)), one.speaker.family, one.speaker.tokenizer, max_source_length=120
    ).ids
    answers = [answer for batch in one.answer(prompts, {}) for answer in batch]
    assert one.tokens == sum(answer.tokens for answer in answers)
    assert all(1 <= answer.tokens <= 6 for answer in answers)
    stops = one.speaker.family.stop_token_ids(one.speaker.tokenizer)
    assert one.speaker.num_tokens([9, 9, stops[0], 0, 0]) == 3


def test_scores_are_the_metrics_own_over_the_rows_that_have_references(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    given = [("a_b_c", "a_b_c"), ("a_b_c", "a_b_d"), (None, "a_b_c"), ("a_b_c\nd_e_f", "a_b_c")]
    path.write_text("".join(json.dumps({"prompt": "q", "completion": c}) + "\n" for c, _ in given))
    scores = score(read_questions(str(path)), [prediction for _, prediction in given])
    assert scores.by_row.keys() == {0, 1, 3}
    assert [scores.by_row[row]["triple_f1"] for row in (0, 1, 3)] == [
        1.0,
        0.0,
        pytest.approx(2 / 3),
    ]
    assert scores.means["triple_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert scores.means["exact_match"] == pytest.approx(1 / 3)


def test_a_metric_that_says_nothing_on_the_rows_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "completion": "yes"}\n{"prompt": "q"}\n')
    scores = score(read_questions(str(path)), ["yes", "no"])
    assert "triple_f1" not in scores.means
    assert scores.means["exact_match"] == 1.0
    assert score(read_questions(str(path))[1:], ["no"]).means == {}


def test_rows_on_which_saying_nothing_is_right_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    answers = ("none", "a_b_c", "nothing")
    path.write_text("".join(json.dumps({"prompt": "q", "completion": a}) + "\n" for a in answers))
    scores = score(read_questions(str(path)), ["", "", ""])
    assert scores.means["triple_f1"] == pytest.approx(2 / 3)
    assert scores.silent == {"triple_f1": 2}


def test_the_command_gives_the_scores_that_the_sweep_gives_its_winner(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find(str(results))
    assert found.run is not None
    assert found.folder is not None
    run = found.run.model_copy(
        update={"data": found.run.data.model_copy(update={"max_test_rows": NUM_ROWS})}
    )
    theirs = score_adapter(
        run,
        found.folder,
        data_cache=tmp_path / "cache",
        metrics=["triple_f1", "exact_match"],
        splits=("test",),
    )["test"].values
    test_rows = tmp_path / "test.jsonl"
    text = (ROWS / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:NUM_ROWS]
    test_rows.write_text("".join(text), encoding="utf-8")
    out = tmp_path / "answers.jsonl"

    assert predict.main([str(results), str(test_rows), str(out)]) == 0

    summary = json.loads((tmp_path / "answers.metrics.json").read_text())
    for name in ("triple_f1", "exact_match"):
        assert summary["metrics"][name] == theirs[name]
    assert summary["sampling"]["max_new_tokens"] == 6
    assert summary["batch_size"] == 3
    told = capsys.readouterr().out
    assert f"triple_f1={theirs['triple_f1']:.4f}" in told
    assert re.search(r"speed +[\d,]+ tokens in [\d.]+ s, [\d.,]+ tokens a second", told)
    written = lines(out)
    assert [line["input"] for line in written] == [json.loads(line)["input"] for line in text]
    assert [line["source"] for line in written] == [
        f"{test_rows}, line {number}" for number in range(1, NUM_ROWS + 1)
    ]
    metric: Any = METRICS["triple_f1"]
    for line in written:
        [value] = metric.score([line["prediction"]], [line["references"]])
        assert line["scores"]["triple_f1"] == value
    assert sorted(path.name for path in tmp_path.glob("answers*")) == [
        "answers.jsonl",
        "answers.metrics.json",
    ]


def test_the_command_run_again_answers_only_what_is_left(
    results: Path, rows: Path, tmp_path: Path
) -> None:
    whole, again = tmp_path / "whole.jsonl", tmp_path / "again.jsonl"
    options = ["--temperature", "1.5", "--top-k", "50", "--seed", "3", "--batch-size", "3"]
    assert predict.main([str(results), str(rows), str(whole), *options]) == 0
    kept = [line["prediction"] for line in lines(whole)]

    def stop_early(self: PartialAnswers, answer: Answer, add: Any = PartialAnswers.add) -> None:
        add(self, answer)
        if len(self.answers) == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialAnswers, "add", stop_early)
        assert predict.main([str(results), str(rows), str(again), *options]) == 1
    assert not again.exists()
    done = lines(tmp_path / "again.jsonl.partial")[1:]
    assert len(done) == 4
    assert predict.main([str(results), str(rows), str(again), *options]) == 0
    assert [line["prediction"] for line in lines(again)] == kept


def test_rows_too_long_for_the_model_are_cut_and_counted(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"prompt": "水温高，" * 300}) + '\n{"prompt": "水"}\n')
    assert predict.main([str(results), str(path), str(out)]) == 0
    assert "1 row(s) are longer than max_source_length=120 and were cut" in capsys.readouterr().out
    assert [set(line) for line in lines(out)] == [{"prompt", "source", "prediction"}] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl", "there.jsonl"], "there.jsonl must not exist, but does"),
        (["rows.jsonl", "no/folder/out.jsonl"], "must be in a folder that exists"),
        (["none.jsonl", "out.jsonl"], "none.jsonl: there is no such file or folder"),
        (["empty.jsonl", "out.jsonl"], "empty.jsonl: the file is empty"),
        (["broken.jsonl", "out.jsonl"], "broken.jsonl, line 2: broken JSON"),
        (["rows.jsonl", "out.jsonl", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["rows.jsonl", "out.jsonl", "--top-p", "0.5"], "add --temperature 0.8, or leave"),
        (
            ["rows.jsonl", "out.jsonl", "--max-source-length", "600"],
            "the 512 tokens that the model reads, .* max_source_length=600 with max_new_tokens=6",
        ),
        (["rows.jsonl", "out.jsonl", "data.train=x"], "a setting must be key=value with one of"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_message_and_nothing_is_written(
    results: Path,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    desk = rows.parent
    monkeypatch.chdir(desk)
    (desk / "there.jsonl").touch()
    (desk / "empty.jsonl").touch()
    shutil.copy(rows, desk / "broken.jsonl")
    (desk / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt":\n')
    before = sorted(desk.iterdir())
    assert predict.main([str(results), *arguments]) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err), told.err
    assert told.err.startswith("error: ")
    assert told.out == ""
    assert sorted(desk.iterdir()) == before
