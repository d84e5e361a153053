"""What a results folder was made with, held against what is asked of it now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytune_glm.errors import ConfigError
from raytune_glm.report.settings import write_settings
from raytune_glm.trials.records import ResultsFolder


def tree(password: str) -> dict[str, Any]:
    return {"search": {"storage": f"postgresql://me:{password}@host/db"}}


def test_settings_that_would_mix_are_told_without_their_passwords(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path)
    write_settings(results, tree("first"))
    results.trials.touch()
    write_settings(results, tree("first"))
    with pytest.raises(ConfigError, match=r"search\.storage: 'postgresql://me:") as raised:
        write_settings(results, tree("second"))
    assert "first" not in str(raised.value)
    assert "second" not in str(raised.value)
