"""The variants of a `one_of` (methods, say) against each other: the best of each, and how sure."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from raytune_glm.metrics import METRICS, AnswerMetric, Metric
from raytune_glm.report.ranking import SOUND, ranked
from raytune_glm.search import SearchSettings
from raytune_glm.search.pairs import variants
from raytune_glm.trials.records import ResultsFolder, State, TrialRow

RESAMPLES = 2_000
LEVEL = 0.95


def variants_table(
    rows: Iterable[TrialRow], search: SearchSettings, results: ResultsFolder
) -> tuple[list[str], list[list[str]]] | None:
    """Head and lines of the table, the best variant first; None where no section has variants.

    The interval is of the best trial's score over the dev rows, by bootstrap; for a metric that
    gives no row a score of its own, such as `eval_loss`, there is none.
    """
    sections = variants(search.space)
    if not sections:
        return None
    section, metric = next(iter(sections)), METRICS[search.metric]
    groups: dict[str, list[TrialRow]] = {}
    for row in rows:
        chosen = row.params.get(section)
        if isinstance(chosen, Mapping):
            groups.setdefault(chosen["name"], []).append(row)
    best = {name: ranked(group, metric)[0] for name, group in groups.items()}
    names = {row.number: name for name, row in best.items()}
    order = [names[row.number] for row in ranked(best.values(), metric)]
    head = [section, metric.name, "95 %", "best trial", "trials", "complete", "steps", "seconds"]
    return head, [_line(name, groups[name], best[name], metric, results) for name in order]


def _line(
    name: str, group: Sequence[TrialRow], best: TrialRow, metric: Metric, results: ResultsFolder
) -> list[str]:
    is_sound = best.state in SOUND and bool(best.metrics["best"])
    scores = _row_scores(best, metric, results) if is_sound else []
    low, high = bootstrap_interval(scores) if scores else (None, None)
    states = Counter(row.state for row in group)
    return [
        name,
        f"{best.metrics['best'][metric.name]:.4f}" if is_sound else "",
        "" if low is None else f"{low:.4f} to {high:.4f}",
        best.id if is_sound else "",
        str(len(group)),
        str(states[State.COMPLETE]),
        str(sum(row.steps for row in group)),
        f"{sum(row.device_seconds or row.seconds or 0.0 for row in group):.0f}",
    ]


def _row_scores(row: TrialRow, metric: Metric, results: ResultsFolder) -> list[float]:
    """The score of each dev row at the best evaluation; none where rows have no scores."""
    path = results.trial(row.id) / "predictions.jsonl"
    if not isinstance(metric, AnswerMetric) or not path.exists():
        return []
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return metric.score([t["prediction"] for t in told], [t["references"] for t in told])


def bootstrap_interval(scores: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The interval that the mean falls into in 95 of 100 draws of as many rows.

    Args:
        scores: One of each row.
        seed: Seed of the draws.
    """
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(scores, k=len(scores))) / len(scores) for _ in range(RESAMPLES))
    tail = (1 - LEVEL) / 2
    return means[int(tail * RESAMPLES)], means[int((1 - tail) * RESAMPLES) - 1]
