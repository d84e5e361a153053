"""Analytic learning curves that stand for fine-tuning runs in `surrogate.py`.

Two of them, unlike each other, so that a search is not set up for one: `methods` has a space with
conditions, a limit of memory, divergence and overfitting; `crossing` has a plain space in which two
settings go together and what learns slowly ends lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

START = 2.5
"""Loss before the first step."""

Curve = Callable[[int], float]
"""Loss after a number of steps, without noise."""


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A task that no model is trained for."""

    about: str
    space: dict[str, Any]
    """As a sweep file's `search.space`."""
    curve: Callable[[Mapping[str, Any]], Curve]
    """The curve of a trial with these values by dotted path."""
    fits: Callable[[Mapping[str, Any]], bool]
    """Whether it has room in memory."""


METHODS_SPACE: dict[str, Any] = {
    "method": {
        "one_of": {
            "lora": {
                "rank": {"int_range": [2, 64], "log": True},
                "alpha": {"choice": [8, 16, 32, 64]},
            },
            "p_tuning_v2": {
                "num_virtual_tokens": {"int_range": [8, 128], "log": True},
                "projection": {"choice": [True, False]},
            },
            "freeze": {"num_trainable_layers": {"int_range": [1, 8]}},
        }
    },
    "train.learning_rate": {"log_range": [1e-5, 1e-1]},
    "train.warmup_ratio": {"range": [0, 0.3]},
    "train.weight_decay": {"range": [0, 0.1]},
}

# Method -> (best loss, best learning rate, steps until 1/e of the way is left).
METHODS = {
    "lora": (0.52, 2e-3, 22.0),
    "p_tuning_v2": (0.50, 1e-2, 32.0),
    "freeze": (0.60, 2e-4, 12.0),
}
ROOM = {
    "method.rank": 24,
    "method.num_virtual_tokens": 64,
    "method.num_trainable_layers": 5,
}
"""The most of each setting that fits: more of a method is better until there is no room."""


def methods_curve(params: Mapping[str, Any]) -> Curve:
    """A slow start, the learning rate's valley, divergence above it, and overfitting in the end."""
    name = params["method"]["name"]
    best, best_rate, steps = METHODS[name]
    off = math.log10(params["train.learning_rate"] / best_rate)  # decades from the best rate
    floor = best + 0.22 * off**2 + (0.8 if off > 1 else 0.0)  # over ten times too high: divergence
    if name == "lora":
        floor += 0.03 * math.log2(64 / params["method.rank"])
        floor += 0.01 * abs(math.log2(params["method.alpha"] / 32))
    elif name == "p_tuning_v2":
        floor += 0.03 * math.log2(128 / params["method.num_virtual_tokens"])
        floor += 0.0 if params["method.projection"] else 0.04
    else:
        floor += 0.02 * (8 - params["method.num_trainable_layers"])
    floor += 1.5 * (params["train.warmup_ratio"] - 0.1) ** 2 + 4 * params["train.weight_decay"] ** 2
    scale = steps * 10 ** (-0.4 * min(off, 0.5))

    def loss(step: int) -> float:
        learnt = floor + max(0.0, START - floor) * math.exp(-((step / scale) ** 0.8))
        # A few thousand rows are learnt by heart in the end; what learns faster does so sooner.
        return learnt + 0.12 * max(0.0, step / (2.2 * scale) - 1)

    return loss


def methods_fits(params: Mapping[str, Any]) -> bool:
    """Whether the one setting that takes memory has room."""
    return all(params.get(path, 0) <= most for path, most in ROOM.items())


CROSSING_SPACE: dict[str, Any] = {
    "train.learning_rate": {"log_range": [1e-5, 1e-1]},
    "train.batch_size": {"choice": [8, 16, 32, 64, 128]},
    "train.weight_decay": {"log_range": [1e-4, 1]},
    "train.warmup_ratio": {"range": [0, 0.3]},
    "method.dropout": {"range": [0, 0.5]},
    "method.rank": {"int_range": [4, 256], "log": True},
}


def crossing_curve(params: Mapping[str, Any]) -> Curve:
    """A power law: a high rate for the batch falls at once and ends high, a low one the reverse."""
    best_rate = 1e-3 * math.sqrt(params["train.batch_size"] / 32)
    off = math.log10(params["train.learning_rate"] / best_rate)
    floor = 0.40 + (0.35 if off > 0 else 0.08) * off**2
    floor += 0.02 * math.log2(256 / params["method.rank"]) ** 1.5 / 4
    floor += 0.6 * (params["method.dropout"] - 0.1) ** 2
    floor += 0.03 * (math.log10(params["train.weight_decay"]) + 2) ** 2
    floor += 0.8 * (params["train.warmup_ratio"] - 0.06) ** 2
    scale = 5.0 * 10 ** (-0.5 * off)

    def loss(step: int) -> float:
        return floor + max(0.0, START - floor) * (1 + step / scale) ** -1.5

    return loss


SURROGATES = {
    "methods": Surrogate(
        about="three methods with settings of their own, some of which have no room",
        space=METHODS_SPACE,
        curve=methods_curve,
        fits=methods_fits,
    ),
    "crossing": Surrogate(
        about="six settings, two of which go together, and curves that cross",
        space=CROSSING_SPACE,
        curve=crossing_curve,
        fits=lambda params: True,
    ),
}
