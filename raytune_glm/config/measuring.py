"""What trials are compared by must be measurable: there are rows for it, and they say something."""

from __future__ import annotations

from collections.abc import Iterator

from raytune_glm.config.tree import SweepConfig
from raytune_glm.data import Survey
from raytune_glm.errors import ConfigError
from raytune_glm.metrics import METRICS, AnswerMetric
from raytune_glm.search import SearchSettings
from raytune_glm.search.quantities import FORGETTING


def check_dev(sweep: SweepConfig) -> None:
    """Refuse a sweep without rows to compare trials on.

    Raises:
        ConfigError: There are no dev rows.
    """
    if sweep.data.dev is None and not sweep.data.dev_rows:
        raise ConfigError(
            "data.dev must be given, or data.dev_rows draw it from the training rows: trials are "
            f"compared by {sweep.search.metric} on rows that they did not train on"
        )


def check_dev_of_run(run: SweepConfig) -> None:
    """Refuse a run that would measure without dev rows; one that measures nothing needs none.

    Raises:
        ConfigError: There are no dev rows, and something to measure on them.
    """
    names = {run.search.metric, *run.train.metrics} - {SearchSettings().metric}
    if run.train.patience is not None:
        names.add(SearchSettings().metric)
    if names and run.data.dev is None and not run.data.dev_rows:
        raise ConfigError(
            "data.dev must be given, or data.dev_rows draw it from the training rows, to measure "
            f"{', '.join(sorted(names))}: give one, or leave search.metric, "
            "train.metrics and train.patience out"
        )


def check_retain(sweep: SweepConfig) -> None:
    """Refuse to measure what is forgotten without rows of its own.

    Raises:
        ConfigError: There are none.
    """
    wanted = [
        name for name in ("objectives", "limits") if FORGETTING in getattr(sweep.search, name)
    ]
    if wanted and sweep.data.retain is None:
        raise ConfigError(
            f"data.retain must be given for {FORGETTING} in search.{' and search.'.join(wanted)}, "
            "since it is the rise of the loss on those rows, but is not: give a file of general "
            "rows, none of the task's"
        )


def check_answers(sweep: SweepConfig, survey: Survey) -> None:
    """Refuse a metric that finds nothing to measure in the dev rows' answers.

    Raises:
        DataError: What the answers lack.
    """
    for metric in _answer_metrics(sweep):
        if "dev" in survey.references:
            metric.refuse_unmeasurable(survey.references["dev"])


def remark_silent_rows(sweep: SweepConfig, survey: Survey) -> Iterator[str]:
    """Tell of held-out rows that count as right whatever else a model says."""
    for metric in _answer_metrics(sweep):
        for split in ("dev", "test"):
            rows = survey.references.get(split, ())
            silent = sum(map(metric.is_silent, rows))
            if silent:
                yield (
                    f"{silent} of the {len(rows)} rows of data.{split} have an answer without "
                    f"anything that {metric.name} looks for: there a model scores {metric.ideal:g} "
                    "for every answer without it"
                )


def _answer_metrics(sweep: SweepConfig) -> list[AnswerMetric]:
    names = sorted({sweep.search.metric, *sweep.train.metrics})
    return [found for name in names if isinstance(found := METRICS[name], AnswerMetric)]
