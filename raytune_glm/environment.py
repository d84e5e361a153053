"""What libraries find for a while: environment variables, and other libraries or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the block, for processes that it starts too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def without(module: str) -> Iterator[None]:
    """Have whoever looks for a module that is not imported yet not find it, in the block.

    A library that remembers that it did not find it goes on without it afterwards.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's word for "there is none"
    try:
        yield
    finally:
        del sys.modules[module]
