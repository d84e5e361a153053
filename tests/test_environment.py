"""What a process has for a while, and has again afterwards."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest

from raytune_glm.environment import uncollected


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_after_imports_where_it_was_before(collects: bool) -> None:
    if not collects:
        gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == collects
        with suppress(ImportError), uncollected():
            raise ImportError("there is no such module")
        assert gc.isenabled() == collects
    finally:
        gc.enable()
