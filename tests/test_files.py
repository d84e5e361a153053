"""Files that are whole whatever happens."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from raytune_glm import files


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"泵": 1})
    files.write_json(path, {"泵": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"泵": 2}
    assert "泵" in path.read_text(encoding="utf-8")
    assert os.listdir(path.parent) == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def interrupted() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half of the n", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with files.replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"


def test_a_replaced_file_can_be_read_by_whom_a_plain_one_could(tmp_path: Path) -> None:
    plain, replaced = tmp_path / "plain", tmp_path / "replaced"
    plain.write_text("", encoding="utf-8")
    files.write_text(replaced, "")
    assert stat.S_IMODE(replaced.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_appended_values_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    for value in ({"n": 1}, {"text": "two\nlines"}):
        files.append_line(path, value)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 1}, {"text": "two\nlines"}]
