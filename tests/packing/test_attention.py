"""Attention over a line of rows, against each row's own softmax in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from raytune_glm.packing.attention import LinePass, attend, passing
from raytune_glm.packing.line import Line, Row

HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 8
SHORT, LONG = [5, 61, 58, 3], [150, 7, 200]
"""Lengths of rows: those that plain products are taken for on a CPU, and longer ones among them."""


def line_of(lengths: Sequence[int], num_prefix: int, context: int) -> Line:
    rows = [
        Row(
            slot=number,
            input_ids=[1] * length,
            labels=[1] * length,
            num_prefix=num_prefix,
            positions=np.arange(length),
            context=min(context, length),
        )
        for number, length in enumerate(lengths)
    ]
    return Line(rows, torch.device("cpu"))


def exact_context(
    query: Tensor, key: Tensor, value: Tensor, prefix: Sequence[Tensor], context: int
) -> Tensor:
    """Of one row: [heads, tokens, size], keys and values once for two heads."""
    length, num_prefix = query.shape[1], prefix[0].shape[1]
    keys, values = (
        torch.cat((ahead, own), dim=1).repeat_interleave(HEADS // KEY_HEADS, dim=0)
        for ahead, own in zip(prefix, (key, value), strict=True)
    )
    scores = query @ keys.mT / HEAD_DIM**0.5
    seen = torch.ones(length, num_prefix + length, dtype=torch.bool).tril(num_prefix)
    seen[:, : num_prefix + context] |= context > 0
    attended: Tensor = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
    return attended.transpose(0, 1)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize(("num_prefix", "context"), [(0, 0), (6, 0), (0, 4)])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"]
)
def test_each_row_attends_within_itself_and_to_its_prefix(
    lengths: list[int], num_prefix: int, context: int, dtype: torch.dtype, error: float
) -> None:
    """In bf16 numbers have eight bits."""
    torch.manual_seed(0)
    line = line_of(lengths, num_prefix, context)
    sizes = [(HEADS, sum(lengths)), (KEY_HEADS, sum(lengths)), (KEY_HEADS, sum(lengths))]
    line_heads = [
        torch.randn(1, *size, HEAD_DIM, dtype=dtype, requires_grad=True) for size in sizes
    ]
    of_prefix = (2, len(lengths), KEY_HEADS, num_prefix, HEAD_DIM)
    ahead = torch.randn(of_prefix, dtype=dtype, requires_grad=True)
    prefixes = [
        [(ahead[0, bucket.rows], ahead[1, bucket.rows])] if num_prefix else None
        for bucket in line.buckets
    ]
    with passing(LinePass(line, prefixes)):
        found, _ = attend(SimpleNamespace(layer_idx=0), *line_heads, None)
    upstream = torch.randn_like(found)
    leaves = [*line_heads, ahead] if num_prefix else line_heads
    gradients = torch.autograd.grad(found, leaves, upstream)

    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact_ahead = doubles[3] if num_prefix else ahead.double()
    contexts, start = [], 0
    for number, length in enumerate(lengths):
        query, key, value = (heads[0, :, start : start + length] for heads in doubles[:3])
        seen = min(context, length)
        contexts.append(exact_context(query, key, value, exact_ahead[:, number], seen))
        start += length
    exact = torch.cat(contexts)[None]
    assert relative_error(found, exact) < error
    expected = torch.autograd.grad(exact, doubles, upstream.double())
    for gradient, true_gradient in zip(gradients, expected, strict=True):
        assert relative_error(gradient, true_gradient) < error
