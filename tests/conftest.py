"""Fixtures that every test may use, and the rules for tests that need Ray or `../shared`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.shipped import MODEL, ROOT

SHARED = ROOT.parent / "shared"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("ray"):  # one Ray at a time, whatever runs beside it
            item.add_marker(pytest.mark.xdist_group("ray"))
    if SHARED.is_dir():
        return
    if os.environ.get("RAYTUNE_GLM_REQUIRE_SHARED"):
        raise pytest.UsageError(f"the tests marked `shared` must run here, but {SHARED} is missing")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason=f"needs {SHARED}, which is not there"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the oracle fixtures and the real rows."""
    return SHARED


@pytest.fixture(scope="session")
def tiny_glm() -> Path:
    """The checkpoint that the project ships. Read-only."""
    return MODEL
