"""Scoring a saved adapter as anybody would meet it: on a base that is loaded afresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm.config import RunConfig
from raytune_glm.data import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raytune_glm.data.store import EncodedData
    from raytune_glm.models.family import Family


@dataclass(frozen=True, kw_only=True)
class SplitScores:
    """What an adapter scored on the rows of one split."""

    values: dict[str, float]
    """Metric -> value over all rows."""
    rows: dict[str, list[float]]
    """Metric of answers -> value of each row, in their order; to compare two adapters by."""


def score_adapter(
    run: RunConfig,
    adapter: Path,
    *,
    data_cache: Path,
    metrics: Sequence[str],
    splits: Sequence[Split],
) -> dict[Split, SplitScores]:
    """Score an adapter on held-out rows, in this process, on its device.

    Args:
        run: The trial that made it.
        adapter: Its folder.
        data_cache: Where encoded data is kept.
        metrics: What to measure; `eval_loss` always is.
        splits: On which rows; those that the data does not have are left out.

    Returns:
        Split -> scores.
    """
    from raytune_glm.data import encode_splits
    from raytune_glm.engine.process import choose_accelerator

    device = choose_accelerator()
    family = run.model.inspect().family
    tokenizer = run.model.load_tokenizer()
    data = encode_splits(run.data, family=family, tokenizer=tokenizer, cache_dir=data_cache)
    model = run.method.load(run.model.load(str(device)), adapter)
    return score_model(
        model, run, data=data, family=family, tokenizer=tokenizer, metrics=metrics, splits=splits
    )


def score_model(
    model: PreTrainedModel,
    run: RunConfig,
    *,
    data: EncodedData,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    metrics: Sequence[str],
    splits: Sequence[Split],
) -> dict[Split, SplitScores]:
    """Score a model that has its adapter on it; see `score_adapter`."""
    from raytune_glm.evaluate import Evaluator
    from raytune_glm.metrics import METRICS, AnswerMetric

    rows = {"train": data.train, "dev": data.dev, "test": data.test}
    scores: dict[Split, SplitScores] = {}
    for split in splits:
        held_out = rows[split]
        if held_out is not None:
            evaluator = Evaluator.of_run(
                run, held_out, metrics=metrics, family=family, tokenizer=tokenizer
            )
            found = evaluator.evaluate(model, model.device)
            scores[split] = SplitScores(
                values=found.values,
                rows={
                    name: metric.score(found.answers, held_out["references"])
                    for name in metrics
                    if isinstance(metric := METRICS[name], AnswerMetric)
                    and found.answers is not None
                },
            )
    return scores
