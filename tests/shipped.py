"""The checkpoint and the rows that the project ships, as tests name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "data" / "tiny-glm"
ROWS = ROOT / "data" / "fault_triples"


def data(*splits: str, **settings: Any) -> dict[str, Any]:
    """Section `data` of a small run: some splits' files, cut to short rows."""
    files = {split: str(ROWS / f"{split}.jsonl") for split in splits}
    return {**files, "max_length": 128, "max_source_length": 96, **settings}
