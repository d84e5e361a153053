"""Rows that stand one behind the other: who joins whom, and that they keep apart."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytune_glm.data.collation import collate
from raytune_glm.data.joining import collate_joined, joined_micro_batches
from raytune_glm.models import FAMILIES, load_model

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [5, 6, 7]},
    {"input_ids": [8, 9], "labels": [-100, 9]},
    {"input_ids": [10, 11, 12, 13], "labels": [-100, -100, 12, 13]},
]


@given(
    world_size=st.integers(1, 3),
    share=st.integers(1, 9),
    micro_batch_size=st.integers(1, 3),
    data=st.data(),
)
def test_every_row_is_in_one_pass_of_one_rank_and_all_ranks_make_as_many(
    world_size: int, share: int, micro_batch_size: int, data: st.DataObject
) -> None:
    count = world_size * share
    lengths = data.draw(st.lists(st.integers(1, 10), min_size=count, max_size=count))
    indices = np.arange(count)[::-1].copy()
    length_of = dict(zip(indices.tolist(), lengths, strict=True))
    ranks = [
        joined_micro_batches(
            indices,
            lengths,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
            max_length=10,
        )
        for rank in range(world_size)
    ]
    assert len({len(passes) for passes in ranks}) == 1
    for rank, passes in enumerate(ranks):
        assert all(1 <= len(rows) <= micro_batch_size for rows in passes)
        joined = [row.tolist() for rows in passes for row in rows]
        assert all(row and sum(length_of[i] for i in row) <= 10 for row in joined)
        own = indices[rank * share : (rank + 1) * share]
        assert sorted(itertools.chain(*joined)) == sorted(own.tolist())


def test_short_rows_fill_what_long_ones_leave() -> None:
    [[first, second]] = joined_micro_batches(
        np.arange(5), [9, 3, 4, 1, 3], rank=0, world_size=1, micro_batch_size=2, max_length=10
    )
    assert [sorted(first), sorted(second)] == [[0, 3], [1, 2, 4]]


def test_positions_start_anew_and_no_row_predicts_the_next_ones_first_token() -> None:
    batch = collate_joined([ROWS[:2], ROWS[2:]], pad_token_id=1)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 9], [10, 11, 12, 13, 1]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]],
        "labels": [[-100, 6, 7, -100, 9], [-100, -100, 12, 13, -100]],
    }


SIZES: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 2),
    **dict.fromkeys(("hidden_size", "n_embd"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **{"intermediate_size": 48, "vocab_size": 96, "head_dim": 8, "num_key_value_heads": 2},
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"), 0.0),
    **dict.fromkeys(("attn_pdrop", "residual_dropout", "embedding_dropout"), 0.0),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
CHATGLM: dict[str, Any] = {
    **{"_name_or_path": "chatglm3-6b", "num_layers": 2, "padded_vocab_size": 96},
    **{"hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4},
    **{"seq_length": 64, "multi_query_attention": True, "multi_query_group_num": 2},
    **{"add_qkv_bias": True, "add_bias_linear": False, "eos_token_id": 2, "pad_token_id": 0},
}


def gradients(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """The mean loss over all label tokens of the batches, and the gradient of every weight."""
    model.zero_grad()
    total = 0.0
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    for batch, count in zip(batches, counts, strict=True):
        loss = model(**batch, use_cache=False).loss * (count / sum(counts))
        loss.backward()
        total += float(loss.detach())
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return total, torch.cat(flat)


@pytest.mark.parametrize(
    "model_type",
    [*dict.fromkeys(kind for f in FAMILIES.values() for kind in f.joining_model_types)],
)
def test_joined_rows_have_the_loss_and_gradients_of_rows_alone(
    model_type: str, tmp_path: Path
) -> None:
    sizes = CHATGLM if model_type == "chatglm" else SIZES
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "model_type": model_type}))
    torch.manual_seed(3)
    model: Any = load_model(tmp_path, random_weights=True).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    alone = gradients(model, [collate([row], pad_token_id=0) for row in ROWS])
    for joined in ([ROWS], [ROWS[:2], ROWS[2:]]):
        loss, gradient = gradients(model, [collate_joined(joined, pad_token_id=0)])
        assert loss == pytest.approx(alone[0], abs=1e-5)
        torch.testing.assert_close(gradient, alone[1], rtol=0, atol=1e-5)


def test_chatglm_6b_whose_context_is_seen_whole_does_not_join_rows() -> None:
    assert "chatglm" not in FAMILIES["chatglm"].joining_model_types
