"""Attention functions of transformers' interface other than its own SDPA and ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from raytune_glm.models import load_model
from tests.models.test_vectors import VECTORS, given

NAME = "pads_only"
"""Not a name with "flash" in it, for which transformers wants the real one."""


def pads_only(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend on FlashAttention's terms: causal up to the last key, at most a 2-D mask of pads."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    seen = torch.ones(num_queries, num_keys).bool().tril(num_keys - num_queries)
    if attention_mask is not None:
        assert attention_mask.dim() == 2
        seen = seen & attention_mask.bool()[:, None, None]
    context = scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True
    )
    return context.nan_to_num().transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, pads_only)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


@pytest.mark.parametrize("prefix_length", [0, 4])
def test_a_causal_attention_with_a_mask_of_pads_gives_sdpas_loss_and_answers(
    prefix_length: int,
) -> None:
    inputs, _, _ = given("chatglm2", "batch_left_pad_labels")
    model: Any = load_model(VECTORS / "chatglm2")
    if prefix_length:
        torch.manual_seed(3)
        model.add_prefix(prefix_length, projection=False)
        model.eval()
    prompt = {name: value for name, value in inputs.items() if name != "labels"}
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    results = []
    for implementation in ("sdpa", NAME):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            loss = float(model(**inputs).loss)
        results.append((loss, model.generate(**prompt, **settings).tolist()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    assert results[0][1] == results[1][1]


def test_flash_attention_is_refused_for_chatglms_mask_which_is_not_causal() -> None:
    model: Any = load_model(VECTORS / "chatglm")
    with pytest.raises(ValueError, match=r"does not support Flash Attention 2"):
        model.set_attn_implementation("flash_attention_2")


def test_chatglm_refuses_a_sequence_beyond_its_limit() -> None:
    from raytune_glm.errors import ModelError

    model: Any = load_model(VECTORS / "chatglm")
    ids = torch.full((1, model.config.max_sequence_length + 1), 5)
    with pytest.raises(ModelError, match=r"at most max_sequence_length=128 tokens, but got 129"):
        model(ids)
