"""The shipped fault-triple data is what its generator makes, and keeps what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipped import ROOT, ROWS

RELATIONS = {"部件故障", "性能故障", "组成", "检测工具"}


def rows(split: str) -> list[dict[str, str]]:
    lines = (ROWS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def entities(split: str) -> set[str]:
    triples = [line.split("_") for row in rows(split) for line in row["output"].split("\n")]
    return {entity for head, _, tail in triples for entity in (head, tail)}


def test_the_generator_makes_the_shipped_files_byte_for_byte(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_fault_triples.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True)
    for split in ("train", "dev", "test"):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (ROWS / f"{split}.jsonl").read_bytes()


def test_another_seed_makes_other_rows(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "make_fault_triples.py", "--seed", "21"]
    subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "dev.jsonl").read_bytes() != (ROWS / "dev.jsonl").read_bytes()


def test_the_splits_have_the_promised_sizes() -> None:
    assert len(rows("train")) >= 600
    assert (len(rows("dev")), len(rows("test"))) == (100, 100)


def test_no_sentence_stands_in_two_splits_or_twice_in_one() -> None:
    inputs = [row["input"] for split in ("train", "dev", "test") for row in rows(split)]
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_most_entities_of_dev_and_test_stand_nowhere_in_train(split: str) -> None:
    train_text = "\n".join(row["input"] + "\n" + row["output"] for row in rows("train"))
    found = entities(split)
    new = {entity for entity in found if entity not in train_text}
    assert len(new) >= 0.6 * len(found)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_answer_is_lines_of_triples_whose_entities_stand_in_the_sentence(split: str) -> None:
    for row in rows(split):
        assert set(row) == {"instruction", "input", "output"}
        lines = row["output"].split("\n")
        assert len(set(lines)) == len(lines)
        for line in lines:
            head, relation, tail = line.split("_")
            assert relation in RELATIONS
            assert head in row["input"]
            assert tail in row["input"]
