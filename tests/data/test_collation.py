"""Padding: what training and generation are given."""

from __future__ import annotations

import torch

from raytune_glm.data.collation import collate

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "length": 3},
    {"input_ids": [8], "labels": [8], "length": 1},
]


def test_training_rows_are_padded_on_the_right() -> None:
    batch = collate(ROWS, pad_token_id=2)

    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_prompts_are_padded_on_the_left_and_have_no_labels() -> None:
    prompts = [{"input_ids": row["input_ids"]} for row in ROWS]
    batch = collate(prompts, pad_token_id=2, padding_side="left")

    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [2, 2, 8]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
    }


def test_a_token_like_the_padding_stays_visible() -> None:
    batch = collate([{"input_ids": [2, 2]}, {"input_ids": [1, 2, 3]}], pad_token_id=2)
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_length_is_rounded_up_to_a_multiple() -> None:
    assert collate(ROWS, pad_token_id=0, multiple_of=8)["labels"].shape == (2, 8)
    assert collate(ROWS, pad_token_id=0, multiple_of=3)["labels"].shape == (2, 3)
