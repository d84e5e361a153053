"""What the documents say, held against the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_glm import chat, merge, predict

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    script = REPOSITORY / "scripts/make_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run python scripts/make_reference.py"


@pytest.mark.parametrize("page", ["README.md", "docs/after_training.md"])
def test_the_commands_after_training_are_understood_as_written(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    commands = {"chat": chat, "predict": predict, "merge": merge}
    found = re.findall(r"python -m raytune_glm\.(chat|predict|merge) (.+)", text)
    assert {name for name, _ in found} == set(commands)
    for name, arguments in found:
        commands[name]._parser().parse_intermixed_args(shlex.split(arguments))
