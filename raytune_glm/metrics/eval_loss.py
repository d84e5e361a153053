"""`eval_loss`: how surprised the model is by the right answers."""

from __future__ import annotations

import math

from raytune_glm.metrics.metric import Metric


class EvalLoss(Metric):
    """Mean cross entropy of the answers' tokens, in nats a token.

    A row's value is its mean loss, its weight the number of its tokens that carry loss
    (`num_labels`), so the score is the mean over all those tokens: a row with a long answer weighs
    more, and the batch size does not matter. Masked out: the source, the padding, and the first
    token of a row, which nothing predicts. Direction: less is better. Range: 0 to infinity. Ranks:
    the summed losses and the token counts are each added over all ranks, then divided.
    """

    name = "eval_loss"
    direction = "min"
    ideal = 0.0
    worst = math.inf
