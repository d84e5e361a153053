"""What the documents say, held against the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    script = REPOSITORY / "scripts/make_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run python scripts/make_reference.py"
