"""What the documents say, held against the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_glm import chat, merge, predict
from raytune_glm.config import load_sweep
from raytune_glm.data.formats import FORMATS, find_format, unread_fields
from raytune_glm.metrics import METRICS
from tests.shipped import ROOT


@pytest.mark.parametrize("script", ["scripts/make_reference.py", "scripts/make_migration.py"])
def test_a_page_made_from_the_code_is_what_the_code_says(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), "--check"], check=False)
    assert done.returncode == 0, f"run python {script}"


def test_every_row_that_the_documents_show_is_read() -> None:
    shown = re.findall(r"```json\n(.*?)```", (ROOT / "docs/data.md").read_text("utf-8"), re.S)
    rows = [json.loads(line) for block in shown for line in block.splitlines()]
    assert {tuple(find_format(row).fields) for row in rows} == {f.fields for f in FORMATS.values()}
    for row in rows:
        known = find_format(row)
        assert list(known.read(row))
        assert unread_fields(row, known) == []


def test_every_metric_and_every_field_of_a_format_is_documented() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    fields = {field for known in FORMATS.values() for field in known.fields + known.optional}
    assert [name for name in sorted({*fields, *METRICS}) if f"`{name}`" not in page] == []


def test_the_readmes_sweeps_are_legal_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"python -m raytune_glm\.sweep (.+)", text)
    assert len(commands) >= 2
    for command in commands:
        words = [word for word in shlex.split(command) if word != "--check"]
        load_sweep(Path(words[0]), words[1:])


@pytest.mark.parametrize("page", ["README.md", "docs/after_training.md"])
def test_the_commands_after_training_are_understood_as_written(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = {"chat": chat, "predict": predict, "merge": merge}
    found = re.findall(r"python -m raytune_glm\.(chat|predict|merge) (.+)", text)
    assert {name for name, _ in found} == set(commands)
    for name, arguments in found:
        commands[name]._parser().parse_intermixed_args(shlex.split(arguments))
