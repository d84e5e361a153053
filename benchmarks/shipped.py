"""The checkpoint and the rows that the project ships, as benchmarks name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "data" / "tiny-glm"


def data(**settings: Any) -> dict[str, Any]:
    """Section `data` of a sweep: the train and dev rows, with these settings."""
    rows = ROOT / "data" / "fault_triples"
    return {"train": str(rows / "train.jsonl"), "dev": str(rows / "dev.jsonl"), **settings}
