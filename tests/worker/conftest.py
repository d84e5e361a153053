"""What the tests of the worker loop share: a small run on the shipped model and rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.shipped import MODEL, data

RUN: dict[str, Any] = {
    "model": {"path": str(MODEL)},
    "data": data("train", "dev", max_train_rows=60, max_dev_rows=8),
    "method": {"name": "lora", "rank": 4, "target_modules": "all"},
    "train": {
        "learning_rate": 1e-3,
        "batch_size": 8,
        "micro_batch_size": 2,
        "max_steps": 20,
        "log_every_steps": 1,
        "max_new_tokens": 4,
    },
}


@pytest.fixture
def run() -> dict[str, Any]:
    """A run's configuration, to change as a test likes."""
    return copy.deepcopy(RUN)
