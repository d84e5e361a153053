"""Intervals and the paired bootstrap, held against SciPy's and a table of Student's quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from raytune_glm.report.statistics import difference_interval, mean_interval, paired_bootstrap


def test_the_interval_of_a_mean_has_the_tables_quantile() -> None:
    # Student's two-sided 95 % quantile at 2 degrees of freedom is 4.303, the deviation here is 1.
    found = mean_interval([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert 2 - found.low == pytest.approx(4.3027 / 3**0.5, abs=1e-4)


def test_the_interval_of_a_difference_is_welchs() -> None:
    first, second = [0.61, 0.64, 0.60, 0.66], [0.55, 0.59, 0.51]
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = difference_interval(first, second)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_equal_scores_of_every_seed_make_an_interval_of_no_width() -> None:
    found = difference_interval([0.5, 0.5], [0.4, 0.4])
    assert found.low == found.high == pytest.approx(0.1)


def test_the_bootstrap_pairs_rows() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.uniform(0, 1, size=100)
    first = np.clip(hardness + 0.02 + rng.normal(0, 0.03, size=100), 0, 1)
    second = np.clip(hardness, 0, 1)
    found = paired_bootstrap(first.tolist(), second.tolist())
    expected = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=10_000, rng=5
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=1e-3)
    assert found.high == pytest.approx(expected.high, abs=1e-3)
    # Rows differ far more among themselves than the two do: unpaired, nothing would show.
    assert found.low > 0
    assert paired_bootstrap(second.tolist(), second.tolist()).high == 0
