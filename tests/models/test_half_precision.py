"""bf16 and fp16 beyond positions 256 and 2048, where published positions fall together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raytune_glm.models import Precision, load_model
from tests.models.oracle import FAMILY_NAMES, case, worst
from tests.models.test_vectors import VECTORS

HALVES: list[tuple[Precision, torch.dtype, float]] = [
    ("fp16", torch.float16, 0.1),
    ("bf16", torch.bfloat16, 0.5),
]
"""With the greatest distances of logits from fp32 that the fixtures' README names."""
NUM_TOKENS = 2200
BASES = ["chatglm_base", "chatglm2", "chatglm3"]


def loaded(folder: Path, precision: Precision = "fp32") -> Any:
    """The model with a position table that is long enough for these rows."""
    model: Any = load_model(folder, precision=precision)
    model.config.max_position_embeddings = 4096
    return model


def long_row(config: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 1600, (1, NUM_TOKENS), generator=generator)
    if hasattr(config, "gmask_token_id"):
        ids[0, -40:-38] = torch.tensor([config.gmask_token_id, config.bos_token_id])
    return ids


def positions(ids: Tensor, config: Any) -> Tensor:
    if not hasattr(config, "gmask_token_id"):
        return torch.arange(ids.shape[1])[None]
    from raytune_glm.models.chatglm_v1 import positions as places

    return places.positions(places.find_spans(ids, None, config), 0, ids.shape[1], config)


def last_logits(model: Any, ids: Tensor, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, logits_to_keep=30, **inputs).logits.float()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("precision", "dtype", "bound"), HALVES)
def test_a_long_row_is_rounded_no_more_than_its_end_alone(
    base: str, precision: Precision, dtype: torch.dtype, bound: float
) -> None:
    full, half = loaded(VECTORS / base), loaded(VECTORS / base, precision)
    ids = long_row(full.config)
    exact = last_logits(full, ids)
    distance = worst(last_logits(half, ids), exact)
    end = ids[:, -200:]
    assert distance < 2 * worst(last_logits(half, end), last_logits(full, end))
    # What positions that are rounded to the precision do, in a model that rounds nothing else.
    rounded = positions(ids, full.config).to(dtype).long()
    assert worst(last_logits(full, ids, position_ids=rounded), exact) > 5 * distance


@pytest.mark.shared
@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize(("precision", "dtype", "bound"), HALVES)
@pytest.mark.parametrize("first", [0, 300, 2100])
def test_far_positions_give_the_originals_logits_of_near_ones(
    name: str, precision: Precision, dtype: torch.dtype, bound: float, first: int, shared: Path
) -> None:
    one = case(shared / "oracle" / name, "single")
    half = loaded(shared / "oracle" / name, precision)
    ids = one.inputs["input_ids"]
    # Rotary positions are relative: moving all of them by the same amount changes nothing.
    moved = positions(ids, half.config) + first
    with torch.no_grad():
        logits = half(ids, position_ids=moved).logits
    assert worst(logits[:, -6:], one.expected("logits")[:, -6:]) < bound
