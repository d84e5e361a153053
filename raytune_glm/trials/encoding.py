"""Encoding the data of all trials, in the command, where the user sees what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from raytune_glm.config import SweepConfig
from raytune_glm.data import Split, SplitStats
from raytune_glm.metrics import METRICS, AnswerMetric


def encode(sweep: SweepConfig, data_cache: Path) -> dict[Split, SplitStats]:
    """Encode the data once for all trials.

    Args:
        sweep: The sweep, or a run that is trained alone.
        data_cache: Where encoded data is kept.

    Returns:
        What encoding did to each split.

    Raises:
        DataError: A row cannot be used, or a metric has nothing to measure on the dev rows.
    """
    from raytune_glm.data.store import encode_splits

    data = encode_splits(
        sweep.data,
        family=sweep.model.inspect().family,
        tokenizer=sweep.model.load_tokenizer(),
        cache_dir=data_cache,
    )
    for name in {sweep.search.metric, *sweep.train.metrics}:
        metric = METRICS[name]
        if data.dev is not None and isinstance(metric, AnswerMetric):
            metric.refuse_unmeasurable(data.dev["references"])
    return data.stats
