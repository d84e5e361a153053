"""What transformers calls a cache of earlier tokens, where it hands one over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers.masking_utils import create_causal_mask

CACHE = (
    "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
)
"""This transformers' name for it, of arguments and of what models put out: `cache` from 5.24 on,
`past_key_values` before."""


def renamed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give a model's arguments with the cache, if there is one, under this transformers' name."""
    others = {k: v for k, v in arguments.items() if k not in ("cache", "past_key_values")}
    given = [arguments.get(name) for name in ("cache", "past_key_values")]
    found = next((cache for cache in given if cache is not None), None)
    return others if found is None else {**others, CACHE: found}
