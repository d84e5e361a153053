"""TPE whose kernels are narrower than Optuna's, so that late proposals stay near the good trials.

Optuna makes no kernel narrower than the range over the number of trials behind it ("magic
clipping"). Only a tenth of the trials count as good: with five of them a kernel over learning rates
from 1e-5 to 1e-1 has a deviation of more than half a decade, and proposals scatter about what is
known to be good. Here the floor falls with the square of the number, down to 3 % of the range, as
the ablation of Watanabe (2023, arXiv 2304.11127) recommends. What this is worth is in
`benchmarks/README.md`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

LEAST_WIDTH = 0.03
"""Of the range: the narrowest deviation of a kernel."""


class _NarrowEstimator(_ParzenEstimator):
    def _calculate_numerical_distributions(
        self,
        observations: np.ndarray[Any, Any],
        search_space: FloatDistribution | IntDistribution,
        parameters: Any,
    ) -> Any:
        made: Any = super()._calculate_numerical_distributions(
            observations, search_space, parameters._replace(consider_magic_clip=False)
        )
        width = _width(search_space)
        floor = max(LEAST_WIDTH, (len(observations) + 2) ** -2.0)
        return made._replace(sigma=np.clip(made.sigma, floor * width, width))


def _width(space: FloatDistribution | IntDistribution) -> float:
    """Of the range as kernels see it: a step reaches half a step beyond both ends."""
    beyond = (space.step or 0) / 2
    low, high = space.low - beyond, space.high + beyond
    return float(np.log(high / low) if space.log else high - low)


def narrow(sampler: TPESampler) -> TPESampler:
    """Give a sampler the narrow kernels."""
    sampler._parzen_estimator_cls = _NarrowEstimator
    return sampler
