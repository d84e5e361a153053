"""Repair records in the pretraining text, asked about otherwise than by the fault-triple task.

The records are told by the task's own grammar (`faults`); those with an entity of its dev and test
rows are left out later (`pretraining.rows.Kept`). What is asked goes by other names for the
relations and in other layouts, so that the model knows such sentences and their words, and not the
task. Read next: `tasks`.
"""

from __future__ import annotations

import random

from corpus import faults

LABELS = {
    faults.PART_FAULT: ("损坏情况", "毛病", "坏相"),
    faults.QUANTITY_FAULT: ("读数变化", "指标表现", "异动"),
    faults.COMPOSITION: ("内部零件", "所含零件", "下属零件"),
    faults.TOOL: ("所用仪器", "量具", "查验器具"),
}
"""What the relations of a record are called here: nothing that the task calls them."""


def record(rng: random.Random) -> tuple[str, list[faults.Triple]]:
    """A record's text and what it states, at least one relation."""
    return faults.draft(lambda kind: faults.ENTITIES[kind](rng), rng)
