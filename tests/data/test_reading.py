"""What the user is told about data files, and what rows become."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_glm.data import DataConfig, Row, check_files, read_splits
from raytune_glm.errors import DataError

ALPACA = {"instruction": "Name the fault.", "input": "The fan is slow.", "output": "fan_is_slow"}


def lines(*rows: Any) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def read(path: Path, **settings: Any) -> list[Row]:
    return read_splits(DataConfig(train=str(path), **settings))["train"]


def turns(row: Row) -> list[tuple[str, tuple[str, ...]]]:
    return [(message.role, message.parts) for message in row.messages]


def faults_of(tmp_path: Path, content: str | bytes, name: str = "train.jsonl") -> list[str]:
    """Write a file, check it, and give the lines of the message without the folder."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        check_files(DataConfig(train=str(path)))
    return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).split("\n")]


# Formats


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            ALPACA,
            [
                ("user", ("Name the fault.", "The fan is slow.")),
                ("assistant", ("fan_is_slow",)),
            ],
        ),
        (
            {"instruction": "Say hello.", "output": "Hello."},
            [("user", ("Say hello.", "")), ("assistant", ("Hello.",))],
        ),
        (
            {
                "instruction": "And two?",
                "input": None,
                "output": "Four.",
                "system": "Be brief.",
                "history": [["Twice one?", "Two."]],
            },
            [
                ("system", ("Be brief.",)),
                ("user", ("Twice one?",)),
                ("assistant", ("Two.",)),
                ("user", ("And two?", "")),
                ("assistant", ("Four.",)),
            ],
        ),
        (
            {"context": "Question: 1 + 1\nAnswer: ", "target": "2"},
            [("user", ("Question: 1 + 1\nAnswer: ",)), ("assistant", ("2",))],
        ),
        (
            {"prompt": "Once upon", "completion": " a time", "id": 7},
            [("user", ("Once upon",)), ("assistant", (" a time",))],
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "Bye"},
                    {"role": "assistant", "content": "See you"},
                ]
            },
            [
                ("system", ("Be kind.",)),
                ("user", ("Hi",)),
                ("assistant", ("Hello",)),
                ("user", ("Bye",)),
                ("assistant", ("See you",)),
            ],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Weather?"},
                    {"from": "observation", "value": "17 degrees"},
                    {"from": "gpt", "value": "Mild."},
                ]
            },
            [
                ("user", ("Weather?",)),
                ("tool", ("17 degrees",)),
                ("assistant", ("Mild.",)),
            ],
        ),
        (
            {
                "conversations": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
            [("user", ("Hi",)), ("assistant", ("Hello",))],
        ),
        (
            {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}]},
            [("user", ("Add.", "1 1")), ("assistant", ("2",))],
        ),
    ],
    ids=[
        "alpaca",
        "alpaca without input",
        "alpaca with history",
        "context",
        "prompt",
        "messages",
        "conversations",
        "conversations of ChatGLM3's demo",
        "instances",
    ],
)
def test_each_format_is_told_by_its_fields(
    tmp_path: Path, record: dict[str, Any], expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(record), encoding="utf-8")

    (row,) = read(path)

    assert turns(row) == expected
    assert row.references == expected[-1][1]


def test_a_list_of_answers_trains_on_the_first_and_is_compared_with_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(ALPACA | {"output": ["what?", "why?"]}), encoding="utf-8")

    (row,) = read(path)

    assert row.messages[-1].content == "what?"
    assert row.references == ("what?", "why?")


def test_a_seed_task_with_two_instances_gives_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    instances = [{"input": "1", "output": "one"}, {"output": "none"}]
    path.write_text(lines({"instruction": "Spell.", "instances": instances}), encoding="utf-8")

    assert [row.references for row in read(path)] == [("one",), ("none",)]


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(ALPACA | {"output": ""}), encoding="utf-8")

    assert read(path)[0].references == ("",)


def test_formats_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(ALPACA, {"context": "a", "target": "b"}), encoding="utf-8")

    assert [row.references for row in read(path)] == [("fan_is_slow",), ("b",)]


# Layouts of files


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz", "rows.jsonl.gz"])
@pytest.mark.parametrize("layout", ["array", "one a line"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_layout_gives_the_same_rows(
    tmp_path: Path, name: str, layout: str, encoding: str, newline: str
) -> None:
    # U+2028 is a line separator to Python and an ordinary character to JSON.
    rows = [ALPACA | {"input": "转速\u2028低"}, ALPACA | {"input": "b"}]
    text = json.dumps(rows, ensure_ascii=False, indent=2) if layout == "array" else lines(*rows)
    content = text.replace("\n", newline).encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    assert [row.messages[0].parts[1] for row in read(path)] == ["转速\u2028低", "b"]


def test_rows_know_the_line_they_start_on(tmp_path: Path) -> None:
    array, one_a_line = tmp_path / "array.json", tmp_path / "lines.jsonl"
    array.write_text(json.dumps([ALPACA, ALPACA], indent=2), encoding="utf-8")
    one_a_line.write_text(lines(ALPACA) + "\n" + lines(ALPACA), encoding="utf-8")

    assert [row.line for row in read(array)] == [2, 7]
    assert [(row.file, row.line) for row in read(one_a_line)] == [
        (str(one_a_line), 1),
        (str(one_a_line), 3),
    ]


def test_a_folder_is_its_data_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(lines(ALPACA | {"output": "second"}), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(lines(ALPACA | {"output": "first"}), encoding="utf-8")
    (tmp_path / "readme.md").write_text("not data", encoding="utf-8")

    assert [row.references[0] for row in read(tmp_path)] == ["first", "second"]


# Splits


@pytest.fixture
def ten_rows(tmp_path: Path) -> Path:
    path = tmp_path / "ten.jsonl"
    path.write_text(lines(*[ALPACA | {"output": str(n)} for n in range(10)]), encoding="utf-8")
    return path


def outputs(rows: list[Row]) -> list[str]:
    return [row.references[0] for row in rows]


def test_drawn_dev_rows_leave_train_and_depend_on_the_seed_alone(ten_rows: Path) -> None:
    config = DataConfig(train=str(ten_rows), dev_rows=3, split_seed=5)
    splits = read_splits(config)

    assert len(splits["dev"]) == 3
    assert sorted(outputs(splits["train"]) + outputs(splits["dev"])) == [str(n) for n in range(10)]
    assert outputs(read_splits(config)["dev"]) == outputs(splits["dev"])
    draws = {
        tuple(outputs(read_splits(config.model_copy(update={"split_seed": seed}))["dev"]))
        for seed in range(8)
    }
    assert len(draws) > 1


def test_limits_keep_the_first_rows_and_counts_agree_with_rows(ten_rows: Path) -> None:
    config = DataConfig(
        train=[str(ten_rows), str(ten_rows)],
        dev=str(ten_rows),
        test=str(ten_rows),
        max_train_rows=12,
        max_dev_rows=2,
    )
    splits = read_splits(config)

    assert outputs(splits["train"])[-3:] == ["9", "0", "1"]
    assert outputs(splits["dev"]) == ["0", "1"]
    assert check_files(config) == {"train": 12, "dev": 2, "test": 10}


def test_drawing_all_rows_is_refused(ten_rows: Path) -> None:
    with pytest.raises(DataError, match=r"dev_rows=10 and 10 rows in `data\.train`; lower it"):
        check_files(DataConfig(train=str(ten_rows), dev_rows=10))


def test_a_hub_data_set_is_checked_by_its_name_alone(ten_rows: Path) -> None:
    config = DataConfig(train="hub:someone/rows/zh:train[:1%]", dev=str(ten_rows))
    with pytest.raises(DataError, match="must be hub:owner/name"):
        check_files(config)
    config = DataConfig(train="hub:someone/rows/zh:train", dev=str(ten_rows), dev_rows=0)
    assert check_files(config) == {"dev": 10}


# Faults


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            '{"instruction": "a", "output": 3.5}',
            "`output` must be text or a list of texts, but is the number 3.5",
        ),
        ('{"instruction": null, "output": "b"}', "`instruction` must be text, but is null"),
        ('{"instruction": "a", "input": true, "output": "b"}', "`input` must be text, but is true"),
        (
            '{"instruction": "a", "output": []}',
            "`output` must have at least one text, but is an empty list",
        ),
        (
            '{"instruction": "a", "output": ["b", 1]}',
            "`output[1]` must be text, but is the number 1",
        ),
        (
            '{"instruction": "a", "output": "\\ud83d"}',
            "`output` must be valid text, but its character 1 is half of a surrogate pair; write "
            "the row again with whole characters",
        ),
        (
            '{"instruction": "a", "history": ["b"], "output": "c"}',
            "`history[0]` must be a list of a question and its answer",
        ),
        ('{"instruction": "a", "input": "b"}', "the row must have the field `output`"),
        (
            '{"instruction": "a", "ouput": "b"}',
            "the row must have the field `output`, but has `ouput` (did you mean `output`?)",
        ),
        (
            '{"instruction": "a", "inputs": "b", "output": "c"}',
            "unknown field `inputs`; write `input` if that is what it is",
        ),
        ('{"context": "a"}', "the row must have the field `target`"),
        (
            '{"text": "a", "message": []}',
            "the row must have the fields {instruction, output} or {instruction, instances} or "
            "{context, target} or {prompt, completion} or {messages} or {conversations}, but has "
            "`text` and `message`; `message` is nearest to `messages`",
        ),
        (
            '{"instruction": "a", "output": "b", "prompt": "c", "completion": "d"}',
            "the row must be of one format, but has the fields of both alpaca and prompt; remove "
            "the fields that do not belong",
        ),
        ('["a", "b"]', "the row must be an object, but is a list"),
        (
            '{"messages": []}',
            "`messages` must be a list with at least one item, but is an empty list",
        ),
        (
            '{"messages": [{"role": "user"}]}',
            "`messages[0]` must be an object with `role` and `content`",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}]}',
            "`messages` must end with what the assistant says, but its last role is 'user'; "
            "remove the turns after the last answer",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "`messages` must have a turn of the user or a tool right before the last answer",
        ),
        (
            '{"conversations": [{"from": "me", "value": "a"}]}',
            "`conversations[0].from` must be one of system, user, human, assistant, gpt, tool, "
            "function, observation, but is 'me'",
        ),
        (
            '{"instruction": "a", "instances": [{"input": "b"}]}',
            "`instances[0]` must be an object with `input` and `output`",
        ),
        ('{"instruction": "a", "output": "b"', "broken JSON at column 35: Expecting ',' delimiter"),
    ],
)
def test_a_bad_row_is_told_with_its_file_line_and_fault(
    tmp_path: Path, row: str, problem: str
) -> None:
    first = {"prompt": "good", "completion": "row"}
    # A list on the first line would be an array, so a good row stands before it.
    assert faults_of(tmp_path, lines(first) + row + "\n") == [f"train.jsonl, line 2: {problem}"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "train.json: the file is empty; it must hold rows"),
        (b"\xef\xbb\xbf \n", "train.json: the file is empty; it must hold rows"),
        (b"[]", "train.json: there is no row in it; it must hold at least one"),
        (
            b'{"prompt": "a",\n "completion": "caf\xe9"}',
            "train.json, line 2: the file must be UTF-8, but byte 0xe9 is not; convert it",
        ),
        (
            b'{\n  "prompt": "a",\n  "completion": "b"\n}\n',
            "train.json, line 1: the file holds one object over several lines; rows must be an "
            "array `[{...}, {...}]`, or one object on each line",
        ),
        (
            b'[\n{"prompt": "a", "completion": "b"},\n{"prompt": "c" "completion": "d"}\n]',
            "train.json, line 3: broken JSON at column 16: Expecting ',' delimiter",
        ),
        (
            b'[\n{"prompt": "a", "completion": "b"}\n{"prompt": "c"}]',
            "train.json, line 3: broken JSON: a comma or the closing `]` must follow a row of "
            "the array",
        ),
        (
            b'[{"prompt": "a", "completion": "b"},\n',
            "train.json, line 2: the file ends inside the array; it seems to be cut off",
        ),
        (
            b'[{"prompt": "a", "completion": "b"}]\n[]',
            "train.json, line 1: there must be nothing behind the array's closing `]`, but there "
            "is more text",
        ),
        (
            b'[\n{"prompt": "a",\n"completion": 1}\n]',
            "train.json, line 2: `completion` must be text or a list of texts, but is the number 1",
        ),
    ],
)
def test_a_bad_file_is_told_with_its_fault(tmp_path: Path, content: bytes, fault: str) -> None:
    assert faults_of(tmp_path, content, "train.json") == [fault]


def test_a_cut_off_gzip_file_is_told(tmp_path: Path) -> None:
    whole = gzip.compress(lines(ALPACA).encode())
    (fault,) = faults_of(tmp_path, whole[:-12], "train.json.gz")
    assert fault.startswith("train.json.gz: the file must be whole gzip data, but reading fails:")


def test_all_faults_of_all_splits_are_told_at_once_up_to_ten(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text(lines(*[ALPACA | {"output": n} for n in range(8)]), encoding="utf-8")
    broken = "".join("{" + " " * n + "\n" for n in range(5))
    dev.write_text(broken + lines(ALPACA), encoding="utf-8")

    with pytest.raises(DataError) as caught:
        check_files(DataConfig(train=str(train), dev=str(dev)))

    told = str(caught.value).replace(f"{tmp_path}/", "").split("\n")
    assert [line.split(":")[0] for line in told[:10]] == [
        *[f"train.jsonl, line {n}" for n in range(1, 9)],
        *["dev.jsonl, line 1", "dev.jsonl, line 2"],
    ]
    assert told[10:] == ["... and 3 more like these"]


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("none.json", "there is no such file or folder in {folder}"),
        (
            "someone/rows",
            "there is no such file or folder in {folder}; a data set on the Hugging Face hub is "
            "written hub:someone/rows",
        ),
        ("{folder}/none", "there is no such file or folder"),
        ("table.csv", "the file's name must end in .json or .jsonl or .json.gz or .jsonl.gz"),
        (
            "empty",
            "the folder must hold a file whose name ends in .json or .jsonl or .json.gz or "
            ".jsonl.gz",
        ),
        (
            "hub:rows",
            "must be hub:owner/name, hub:owner/name/subset, or either with :split behind it",
        ),
    ],
)
def test_a_place_without_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").touch()
    (tmp_path / "empty").mkdir()
    place = place.format(folder=tmp_path)

    with pytest.raises(DataError) as caught:
        check_files(DataConfig(train=place))

    assert str(caught.value) == f"{place}: {problem.format(folder=tmp_path)}"


def test_a_hub_data_set_that_cannot_be_had_is_a_data_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="hub:no-one/no-rows: split 'train' must be on the hub"):
        read_splits(DataConfig(train="hub:no-one/no-rows"))


# Real rows


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "num_rows"),
    [
        ("spo_0.json", 1441),
        ("spo_1.json", 50),
        ("d2q_0.json", 3143),
        ("d2q_1.json", 20),
        ("alpaca_en_demo.json", 999),
        ("alpaca_zh_demo.json", 1000),
        ("seed_tasks.jsonl", 175),
    ],
)
def test_published_files_are_read_whole(shared: Path, name: str, num_rows: int) -> None:
    path = shared / "data" / name
    rows = read(path)

    assert len(rows) == num_rows
    first = path.read_text(encoding="utf-8").lstrip("[ \n")
    expected, _ = json.JSONDecoder().raw_decode(first)
    assert rows[0].messages[0].parts[0] == expected["instruction"]


@pytest.mark.shared
def test_the_published_question_rows_keep_all_their_questions(shared: Path) -> None:
    rows = read(shared / "data" / "d2q_1.json")
    assert {len(row.references) for row in rows} == {1, 2, 3, 4}


@pytest.mark.shared
def test_megabytes_are_checked_in_a_fresh_process_without_heavy_imports(shared: Path) -> None:
    files = [str(shared / "data" / name) for name in ("d2q_0.json", "alpaca_zh_demo.json")]
    code = (
        "import sys, time; start = time.perf_counter();"
        "from raytune_glm.data import DataConfig, check_files;"
        f"counts = check_files(DataConfig(train={files!r}));"
        "heavy = {'torch', 'datasets', 'transformers', 'ray', 'numpy'} & set(sys.modules);"
        "print(counts, sorted(heavy), time.perf_counter() - start < 2)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "{'train': 4143} [] True\n", result.stderr


def test_a_fault_of_many_rows_is_one_line_with_their_number(tmp_path: Path) -> None:
    rows = lines(*[{"instruction": "a"}] * 41, ALPACA, {"instruction": 3, "output": "b"})
    told = faults_of(tmp_path, rows)
    assert len(told) == 2
    assert told[0].startswith("train.jsonl, line 1 and 40 more lines: the row must have the field")
    assert told[1].startswith("train.jsonl, line 43: `instruction` must be text")
