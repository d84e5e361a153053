"""How sure a comparison is: intervals over seeds, and a paired bootstrap over rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

LEVEL = 0.95
"""Of every interval here."""
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and the interval that covers the truth 95 times in 100."""

    value: float
    low: float
    high: float

    def within(self, one_end: float, other_end: float) -> Estimate:
        """The same, with no part of the interval where the figure cannot be."""
        least, most = sorted((one_end, other_end))
        return replace(self, low=max(self.low, least), high=min(self.high, most))

    def negated(self) -> Estimate:
        """The figure with its sign changed."""
        return Estimate(value=-self.value, low=-self.high, high=-self.low)


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with Student's interval.

    Args:
        values: At least two, such as the scores of one setting under several seeds.
    """
    mean = statistics.fmean(values)
    half = _t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - half, high=mean + half)


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The difference of two means of independent values, with Welch's interval."""
    variances = [statistics.variance(values) / len(values) for values in (first, second)]
    difference = statistics.fmean(first) - statistics.fmean(second)
    total = sum(variances)
    if total == 0:
        return Estimate(value=difference, low=difference, high=difference)
    # Welch-Satterthwaite.
    freedom = total**2 / sum(
        variance**2 / (len(values) - 1)
        for variance, values in zip(variances, (first, second), strict=True)
    )
    half = _t(freedom) * math.sqrt(total)
    return Estimate(value=difference, low=difference - half, high=difference + half)


def _t(freedom: float) -> float:
    """Student's two-sided quantile."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def paired_bootstrap(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate:
    """Compare two mean scores on the same rows, by drawing rows again and again.

    A row that is drawn counts for both: how hard a row is cancels out (Koehn 2004).

    Args:
        first: A score of each row, more being better.
        second: The other's scores of the same rows.
        seed: Seed of the draws.
    """
    import numpy as np

    gains = np.asarray(first) - np.asarray(second)
    drawn = np.random.default_rng(seed).integers(len(gains), size=(RESAMPLES, len(gains)))
    means = gains[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(gains.mean()), low=float(low), high=float(high))
