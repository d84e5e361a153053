"""Attention over a line of rows, as an attention function of transformers.

A model whose attention implementation is `LINE_ATTENTION` attends in each bucket of the line that
is being passed through it (`passing`), by SDPA or, where that is faster, by plain products; where
there is no line, as in generation, it is plain SDPA. Every architecture that goes through
transformers' attention interface can therefore be packed. Read next: `linear`.

Shape suffixes: T tokens of the line, G gathered tokens, N query heads, K key-value heads, D head
size, B rows of a bucket, L its length, P prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from raytune_glm.models.chatglm.prefix import Prefix
from raytune_glm.packing.line import Bucket, Line

LINE_ATTENTION = "raytune_glm_line"

_MAX_PLAIN_LENGTH = 128
"""Rows of up to so many tokens are short: for longer ones SDPA's kernel for CPUs is as fast."""


Keep: TypeAlias = Callable[[int, Tensor, Tensor], None]
"""Takes the number of a layer, and the keys and values of the line there, [T, K, D] each."""


class LinePass:
    """A line on its way through the model, with the learnt prefixes of its buckets."""

    def __init__(
        self, line: Line, prefixes: Sequence[Prefix | None], *, keep: Keep | None = None
    ) -> None:
        """Take a line.

        Args:
            line: The line.
            prefixes: For each of its buckets the prefix of its rows, or None.
            keep: Told the keys and values of each layer, the lowest first; none: nobody is.
        """
        self.line = line
        self.prefixes = prefixes
        self.keep = keep


_passing: list[LinePass] = []
"""The pass that is going on; at most one. Not a context variable: on a GPU the backward pass, which
runs layers again under gradient checkpointing, is in a thread of autograd's own."""


@contextmanager
def passing(line_pass: LinePass) -> Iterator[None]:
    """Have attention work on this line, forward and backward, for as long as the block runs."""
    _passing.append(line_pass)
    try:
        yield
    finally:
        _passing.pop()


class _Gather(torch.autograd.Function):
    """Tokens of the line in the buckets' order. Every token comes once, but for pads."""

    @staticmethod
    def forward(ctx: Any, tokens_TX: Tensor, line: Line) -> Tensor:
        ctx.line = line
        return tokens_TX.index_select(0, line.gather_G)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.line.back_T), None


class _PutBack(torch.autograd.Function):
    """Gathered tokens back in the line's order; a pad has no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens_GX: Tensor, line: Line) -> Tensor:
        ctx.line = line
        return tokens_GX.index_select(0, line.back_T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gathered = gradients[0].index_select(0, ctx.line.gather_G)
        return gathered.index_fill_(0, ctx.line.pads, 0.0), None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each row of the line.

    Args:
        module: The attention module; its `layer_idx` says which layer's prefix comes first.
        query: [1, N, T, D], or any other batch where no line is being passed.
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: Left aside where a line is being passed: it knows its rows.
        scaling: Factor on the scores.
        **kwargs: Passed to SDPA where no line is being passed; else `sliding_window` counts, the
            number of tokens, itself included, that a token sees in such a layer.

    Returns:
        [1, T, N, D], and no probabilities.
    """
    if not _passing:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output
    current = _passing[-1]
    line = current.line
    if current.keep is not None:
        current.keep(module.layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1))
    num_heads, head_dim = query.shape[1], query.shape[3]
    parts = [
        torch.split(_gathered(heads, line), [len(b.rows) * b.length for b in line.buckets])
        for heads in (query, key, value)
    ]
    attended = []
    for number, bucket in enumerate(line.buckets):
        query_BNLD, key_BKLD, value_BKLD = (
            part[number].view(len(bucket.rows), bucket.length, -1, head_dim).transpose(1, 2)
            for part in parts
        )
        prefix = current.prefixes[number]
        if prefix is not None:
            keys_BKPD, values_BKPD = prefix[module.layer_idx]
            key_BKLD = torch.cat((keys_BKPD, key_BKLD), dim=2)
            value_BKLD = torch.cat((values_BKPD, value_BKLD), dim=2)
        mask = _windowed(bucket, kwargs.get("sliding_window"), query.device)
        context_BNLD = _attended(query_BNLD, key_BKLD, value_BKLD, mask, scaling or head_dim**-0.5)
        attended.append(context_BNLD.transpose(1, 2).reshape(-1, num_heads * head_dim))
    gathered = attended[0] if len(attended) == 1 else torch.cat(attended)
    context_TX = gathered if line.is_gathered else _PutBack.apply(gathered, line)  # type: ignore[no-untyped-call]
    return context_TX.view(1, line.num_tokens, num_heads, head_dim), None


def _windowed(bucket: Bucket, window: int | None, device: torch.device) -> Tensor | None:
    """The mask of a bucket in a layer whose tokens see no further back than a window."""
    if window is None or bucket.length <= window:
        return bucket.mask
    assert bucket.num_prefix == 0, "prefixes need full attention"
    near_LL = torch.ones(bucket.length, bucket.length, dtype=torch.bool, device=device)
    near_LL = near_LL.tril().triu(1 - window)
    return near_LL if bucket.mask is None else near_LL & bucket.mask


def _attended(
    query_BNLD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attend in each row of a bucket."""
    if _is_better_plain(query_BNLD):
        return _PlainAttention.apply(  # type: ignore[no-any-return,no-untyped-call]
            query_BNLD, key_BKSD, value_BKSD, mask, scaling
        )
    groups = query_BNLD.shape[1] // key_BKSD.shape[1]
    # SDPA takes grouped heads as they are; on GPUs its kernels for masks do not.
    is_grouped = groups > 1 and mask is None
    if not is_grouped:
        key_BKSD, value_BKSD = repeat_kv(key_BKSD, groups), repeat_kv(value_BKSD, groups)
    return torch.nn.functional.scaled_dot_product_attention(
        query_BNLD,
        key_BKSD,
        value_BKSD,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=is_grouped,
    )


def _is_better_plain(query_BNLD: Tensor) -> bool:
    """Whether plain products are faster than SDPA: on CPUs in bf16, and where rows are short."""
    return query_BNLD.device.type == "cpu" and (
        query_BNLD.dtype == torch.bfloat16 or query_BNLD.shape[2] <= _MAX_PLAIN_LENGTH
    )


class _PlainAttention(torch.autograd.Function):
    """Attention by batched products, one a row and key head, for all query heads that share it.

    The backward pass is written out: autograd's own would repeat keys and values for each head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BNLD: Tensor,
        key_BKSD: Tensor,
        value_BKSD: Tensor,
        mask: Tensor | None,
        scaling: float,
    ) -> Tensor:
        num_rows, num_heads, length, head_dim = query_BNLD.shape
        num_places = key_BKSD.shape[2]
        keys = key_BKSD.reshape(-1, num_places, head_dim)
        values = value_BKSD.reshape(-1, num_places, head_dim)
        queries = (query_BNLD * scaling).reshape(len(keys), -1, head_dim)
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool, device=query_BNLD.device).tril()
        scores = torch.bmm(queries, keys.mT)
        scores.view(num_rows, num_heads, length, num_places).masked_fill_(~mask, float("-inf"))
        shares = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(queries, keys, values, shares)
        ctx.scaling, ctx.shapes = scaling, (query_BNLD.shape, key_BKSD.shape)
        return torch.bmm(shares, values).view(query_BNLD.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BNLD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, shares = ctx.saved_tensors
        query_shape, key_shape = ctx.shapes
        gradients = gradient_BNLD.reshape(queries.shape)
        value_grads = torch.bmm(shares.mT, gradients)
        score_grads = torch.ops.aten._softmax_backward_data(
            torch.bmm(gradients, values.mT), shares, -1, shares.dtype
        )
        query_grads = torch.bmm(score_grads, keys).mul_(ctx.scaling)
        key_grads = torch.bmm(score_grads.mT, queries)
        return (
            query_grads.view(query_shape),
            key_grads.view(key_shape),
            value_grads.view(key_shape),
            None,
            None,
        )


def _gathered(heads: Tensor, line: Line) -> Tensor:
    """Tokens of the buckets, [G, heads * D]."""
    tokens_TX = heads[0].transpose(0, 1).flatten(1)
    if line.is_gathered:
        return tokens_TX
    gathered: Tensor = _Gather.apply(tokens_TX, line)  # type: ignore[no-untyped-call]
    return gathered


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask where a line is being passed; else SDPA's."""
    if _passing:
        return None
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(LINE_ATTENTION, attend)
AttentionMaskInterface.register(LINE_ATTENTION, _mask)
