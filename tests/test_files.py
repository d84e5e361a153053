"""Files that are whole whatever happens."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_glm import files
from raytune_glm.errors import ConfigError


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"泵": 1})
    files.write_json(path, {"泵": 2})
    assert files.read_json(path) == {"泵": 2}
    assert files.read_json(path.with_name("b.json")) is None
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


def test_a_new_folder_is_whole_when_it_is_there(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with files.new_folder(out) as folder:
        (folder / "a").write_text("1", encoding="utf-8")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert os.listdir(out.parent) == ["out"]


def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> None:
        with files.new_folder(tmp_path / "out") as folder:
            (folder / "a").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        failing()
    assert os.listdir(tmp_path) == []


def test_a_kill_leaves_no_folder_of_the_name_and_the_next_call_clears_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import os, sys; from pathlib import Path; from raytune_glm import files\n"
        "with files.new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(out)], check=False)
    assert killed.returncode == -9
    assert not out.exists()
    with files.new_folder(out) as folder:
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


def test_two_that_make_one_folder_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files.new_folder(out) as folder:
        (folder / "mine").touch()
        with pytest.raises(ConfigError, match="another process"), files.new_folder(out):
            pass
    assert [path.name for path in out.iterdir()] == ["mine"]
