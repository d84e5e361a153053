"""Padding of token ids with their positions, for tokenizers whose batches hold both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def pad_with_positions(
    pad: Callable[..., Any], encoded_inputs: Any, *, side: str, **arguments: Any
) -> Any:
    """Pad one row with `pad`, and its positions: counted from 0, pads have position 0.

    Args:
        pad: `PreTrainedTokenizerBase._pad` of the tokenizer.
        encoded_inputs: The row: `input_ids`, perhaps `position_ids`.
        side: `left` or `right`.
        **arguments: Those of `pad`.
    """
    num_tokens = len(encoded_inputs["input_ids"])
    positions = list(encoded_inputs.get("position_ids") or range(num_tokens))
    padded = pad(encoded_inputs, padding_side=side, **arguments)
    pads = [0] * (len(padded["input_ids"]) - num_tokens)
    padded["position_ids"] = positions + pads if side == "right" else pads + positions
    return padded
