"""Where log records and prints go."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from raytune_glm.log import log_to_file, printing_to


def test_records_of_the_package_go_to_the_file_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = log_to_file(tmp_path / "new" / "sweep.log")
    try:
        logging.getLogger("raytune_glm.worker").info("步 %d", 7)
        logging.getLogger("elsewhere").info("not ours")
    finally:
        logging.getLogger("raytune_glm").removeHandler(handler)
        handler.close()
    lines = (tmp_path / "new" / "sweep.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO raytune_glm.worker: 步 7")
    assert capfd.readouterr() == ("", "")


def test_prints_go_to_the_file_until_the_block_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ray.log"
    path.write_text("before\n", encoding="utf-8")
    with printing_to(path):
        print("to the file")
        print("and errors", file=sys.stderr)
    print("to the terminal")
    assert path.read_text(encoding="utf-8") == "before\nto the file\nand errors\n"
    assert capsys.readouterr() == ("to the terminal\n", "")
