"""ChatGLM-6B's two position streams and its mask: a context seen whole, an answer seen causally.

A row is `context [gMASK] <sop> answer`. Everything before the first `<sop>` is context, which every
position sees; `<sop>` and what follows is seen causally. The first stream counts the context and
then stays at `[gMASK]`; the second is 0 in the context and counts from 1 at `<sop>`. Read next:
`modeling`.

Shape suffixes: B batch, T tokens of this call, S tokens with the cached ones, R frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytune_glm.errors import DataError
from raytune_glm.models.chatglm_v1.configuration import ChatGLMV1Config

_ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class Spans:
    """Where each row's pads end and its answer starts; columns are counted with the left pads."""

    num_pads_B: Tensor
    """Pads on the left."""
    answer_start_B: Tensor
    """Column of the first `<sop>`."""
    mask_place_B: Tensor
    """Column of `[gMASK]`, or of `[MASK]` in a row that has no `[gMASK]`."""
    sticks_B: Tensor
    """Whether a single stream stays at the mask, too: only for `[MASK]`."""


def find_spans(
    input_ids_BT: Tensor, attention_mask_BT: Tensor | None, config: ChatGLMV1Config
) -> Spans:
    """Find the parts of each row.

    Args:
        input_ids_BT: Whole rows, pads on the left or on the right.
        attention_mask_BT: 1 for a token, 0 for a pad. Without it, pads on the left are known by id.
        config: Gives the ids of the special tokens.

    Raises:
        DataError: A row has no `<sop>`, or neither `[gMASK]` nor `[MASK]`. (A `ValueError`.)
    """
    starts_BT = input_ids_BT == config.bos_token_id
    gmasks_BT = input_ids_BT == config.gmask_token_id
    masks_BT = input_ids_BT == config.mask_token_id
    has_gmask_B = gmasks_BT.any(-1)
    for found_B, what in (
        (starts_BT.any(-1), f"<sop> (id {config.bos_token_id})"),
        (
            has_gmask_B | masks_BT.any(-1),
            f"[gMASK] (id {config.gmask_token_id}) or [MASK] (id {config.mask_token_id})",
        ),
    ):
        if not bool(found_B.all()):
            raise DataError(
                f"a row for ChatGLM-6B must hold {what}, but row {int((~found_B).nonzero()[0])} "
                "has none: encode it with the checkpoint's tokenizer."
            )
    if attention_mask_BT is None:
        pads_BT = torch.eq(input_ids_BT, -1 if config.pad_token_id is None else config.pad_token_id)
    else:
        pads_BT = attention_mask_BT[:, : input_ids_BT.shape[1]] == 0
    return Spans(
        num_pads_B=pads_BT.long().cumprod(-1).sum(-1),
        answer_start_B=starts_BT.long().argmax(-1),
        mask_place_B=torch.where(
            has_gmask_B, gmasks_BT.long().argmax(-1), masks_BT.long().argmax(-1)
        ),
        sticks_B=~has_gmask_B,
    )


def positions(spans: Spans, first: int, num_tokens: int, config: ChatGLMV1Config) -> Tensor:
    """Work out the positions of `num_tokens` columns from column `first` on.

    Returns:
        Both streams, [B, 2, T]; the one stream of `position_encoding_2d: false`, [B, T].
    """
    columns_T = torch.arange(first, first + num_tokens, device=spans.num_pads_B.device)
    pads_B1, start_B1, mask_B1 = (
        value[:, None] for value in (spans.num_pads_B, spans.answer_start_B, spans.mask_place_B)
    )
    in_answer_BT = columns_T >= start_B1
    counted_BT = (columns_T - pads_B1).clamp(min=0)
    stuck_BT = torch.where(in_answer_BT, mask_B1 - pads_B1, counted_BT)
    if not config.position_encoding_2d:
        return torch.where(spans.sticks_B[:, None], stuck_BT, counted_BT)
    answer_BT = (columns_T - start_B1 + 1).clamp(min=0)
    return torch.stack((stuck_BT, answer_BT), dim=1)


def allowed_keys(spans: Spans | None, first: int, num_tokens: int, keys_BS: Tensor) -> Tensor:
    """Say which keys each query may see.

    Args:
        spans: The rows' parts; None where all queries come after `<sop>`.
        first: Column of the first query.
        num_tokens: Number of queries.
        keys_BS: True for a token, False for a pad; the queries are its last columns.

    Returns:
        True where a query sees a key, [B, 1, T, S]. A pad sees itself, so that no row is empty.
    """
    columns_S = torch.arange(keys_BS.shape[1], device=keys_BS.device)
    queries_T1 = torch.arange(first, first + num_tokens, device=keys_BS.device)[:, None]
    seen_BTS = (columns_S <= queries_T1)[None]
    if spans is not None:
        seen_BTS = seen_BTS | (columns_S < spans.answer_start_B[:, None])[:, None]
    return ((seen_BTS & keys_BS[:, None]) | (columns_S == queries_T1))[:, None]


def rotary_tables(config: ChatGLMV1Config, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Work out cosines and sines for a whole head.

    The frequencies are rounded to fp16, as the published model's are in every precision; the angles
    are fp32, so that half precision does not confuse far positions as the published code does.

    Args:
        config: Gives the head size.
        position_ids: [B, 2, T], each stream turning half of the head, or [B, T], turning all of it.

    Returns:
        Two tensors [B, 1, T, head size], the frequencies twice over for `rotate_halves`.
    """
    head_dim = config.hidden_size // config.num_attention_heads
    streams_BKT = position_ids if position_ids.dim() == 3 else position_ids[:, None]
    rotated = head_dim // streams_BKT.shape[1]
    exponents_R = torch.arange(0, rotated, 2, device=position_ids.device).float() / rotated
    frequencies_R = (1.0 / _ROTARY_BASE**exponents_R).half().float()
    angles_BKTR = streams_BKT.float()[..., None] * frequencies_R
    twice_BTD = torch.cat((angles_BKTR, angles_BKTR), dim=-1).transpose(1, 2).flatten(-2)
    return twice_BTD.cos()[:, None], twice_BTD.sin()[:, None]


def rotate_halves(
    heads_BNTD: Tensor, cos_B1TD: Tensor, sin_B1TD: Tensor, *, num_streams: int
) -> Tensor:
    """Rotate each stream's part of the head, its first half against its second, in fp32."""
    parts = heads_BNTD.float().reshape(*heads_BNTD.shape[:-1], num_streams, 2, -1)
    turned = torch.stack((-parts[..., 1, :], parts[..., 0, :]), dim=-2).flatten(-3)
    return (heads_BNTD.float() * cos_B1TD + turned * sin_B1TD).to(heads_BNTD.dtype)
