"""What the limits on length do to the rows: how many are cut, and how many have no answer left."""

from __future__ import annotations

from collections.abc import Mapping

from raytune_glm.config import SweepConfig
from raytune_glm.config.check import Plan
from raytune_glm.data import Split, SplitStats, measure_splits

MEASURED_ROWS = 1000
"""Rows of a split that `--check` makes into tokens: a second or so."""


def describe_lengths(stats: Mapping[Split, SplitStats], plan: Plan) -> str:
    """What the limits on length do to the rows.

    Args:
        stats: What encoding did to each split, or to some of its rows.
        plan: Knows how many rows a split has.
    """
    lines = []
    for split, counts in stats.items():
        num_rows = plan.rows.get(split, counts.rows_read)
        share = num_rows / counts.rows_read
        about = "about " if share > 1 else ""
        texts = [f"{split} rows have up to {counts.longest:,} tokens"]
        for count, what in (
            (counts.rows_truncated, "cut by data.max_length and data.max_source_length"),
            (counts.rows_skipped, "left out as too long"),
            (counts.rows_without_labels, "without a token of an answer"),
        ):
            if count:
                texts.append(f"{about}{round(count * share):,} of {num_rows:,} {what}")
        lines.append("lengths    " + ", ".join(texts if texts[1:] else [*texts, "none is cut"]))
    return "\n".join(lines)


def measured_lengths(sweep: SweepConfig, plan: Plan) -> str:
    """`describe_lengths`, for a `--check`: of local rows, some of each split, nothing written.

    Raises:
        DataError: A row cannot be made into tokens.
    """
    stats = measure_splits(
        sweep.data,
        family=plan.model.family,
        tokenizer=sweep.model.load_tokenizer(),
        most_rows=MEASURED_ROWS,
    )
    return describe_lengths(stats, plan)
