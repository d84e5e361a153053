"""Metrics: the numbers by which trials are compared.

To add one, write its file and enter it in `METRICS`. Read next: `metric`.
"""

from raytune_glm.metrics.eval_loss import EvalLoss
from raytune_glm.metrics.exact_match import ExactMatch
from raytune_glm.metrics.metric import AnswerMetric, Metric, preference, weighted_mean
from raytune_glm.metrics.triple_f1 import TripleF1

METRICS: dict[str, Metric] = {
    "eval_loss": EvalLoss(),
    "triple_f1": TripleF1(),
    "exact_match": ExactMatch(),
}
"""Every metric, by its name."""

__all__ = ["METRICS", "AnswerMetric", "Metric", "preference", "weighted_mean"]
