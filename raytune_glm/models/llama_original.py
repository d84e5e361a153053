"""The layout in which LLaMA was published: `consolidated.00.pth` and `params.json`.

Names, and the order of rows in the query and key projections, are those of the reference code
(meta-llama/llama, `llama/model.py`): it rotates neighbouring values of a head, where transformers
rotates the two halves, so rows are put back in their order. Read next: `raytune_glm.merging`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raytune_glm.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "consolidated.00.pth"
PARAMS = "params.json"
TOKENIZER = "tokenizer.model"
OUTPUT = "lm_head.weight"
"""The output matrix in transformers' layout, which a tied checkpoint need not have."""

_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    OUTPUT: "output.weight",
}
_IN_LAYER = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_LAYER = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<part>.+)\.weight")
_COMPUTED = ("rotary_emb.inv_freq",)
"""Ends of names that the original code works out for itself."""
_LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The one scaling of positions that the reference code of LLaMA 3.1 has, `use_scaled_rope`."""
_DEFAULT_THETA = 10000.0


@dataclass(frozen=True, kw_only=True)
class OriginalLlama:
    """How the tensors of a LLaMA in transformers' layout become those of the original one."""

    num_heads: int
    num_key_value_heads: int
    params: Mapping[str, Any]
    """What `params.json` says."""
    is_tied: bool
    """Whether one matrix is embedding and output; the original has both, always."""

    def names(self, name: str) -> tuple[str, ...]:
        """Give the original names of a tensor: none where the original computes it itself.

        Raises:
            ModelError: The original layout has no place for it.
        """
        if name.endswith(_COMPUTED):
            return ()
        if name in _NAMES:
            also = (_NAMES[OUTPUT],) if self.is_tied and "embed" in name else ()
            return (_NAMES[name], *also)
        found = _LAYER.fullmatch(name)
        if found is None or found["part"] not in _IN_LAYER:
            raise ModelError(
                f"LLaMA's original layout has no place for {name}: write the published layout of "
                "transformers, --format hf."
            )
        return (f"layers.{found['layer']}.{_IN_LAYER[found['part']]}.weight",)

    def convert(self, name: str, tensor: Tensor) -> Tensor:
        """Put the rows of a query or key projection in their original order; all else stays."""
        heads = {
            "self_attn.q_proj.weight": self.num_heads,
            "self_attn.k_proj.weight": self.num_key_value_heads,
        }
        for ending, num_heads in heads.items():
            if name.endswith(ending):
                rows, columns = tensor.shape
                halves = tensor.view(num_heads, 2, rows // num_heads // 2, columns)
                return halves.transpose(1, 2).reshape(rows, columns)
        return tensor


def original_llama(config: Mapping[str, Any]) -> OriginalLlama:
    """Say how a checkpoint with this `config.json` is written in the original layout.

    Raises:
        ModelError: The reference code could not run it.
    """
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    hidden = config["hidden_size"]
    head_dim = config.get("head_dim") or hidden // heads
    for what, found, wanted in (
        ("attention_bias", bool(config.get("attention_bias")), False),
        ("mlp_bias", bool(config.get("mlp_bias")), False),
        ("head_dim", head_dim, hidden // heads),
    ):
        if found != wanted:
            raise ModelError(
                f"LLaMA's original layout needs {what}={wanted}, but config.json has "
                f"{what}={found}: write the layout of transformers, --format hf."
            )
    params = {
        "dim": hidden,
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "vocab_size": config["vocab_size"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        **_feed_forward(hidden, config["intermediate_size"]),
        **_positions(config),
    }
    return OriginalLlama(
        num_heads=heads,
        num_key_value_heads=kv_heads,
        params=params,
        is_tied=bool(config.get("tie_word_embeddings")),
    )


def _feed_forward(hidden: int, width: int) -> dict[str, Any]:
    """Find the settings from which the reference code works out the feed-forward width.

    It takes two thirds of 4 x hidden, times `ffn_dim_multiplier`, and rounds up to `multiple_of`.
    """
    plain = int(2 * 4 * hidden / 3)
    for multiple in (256, 1024, 4096, 128, 64, 32, 16, 8, 4, 2, 1):
        if -(-plain // multiple) * multiple == width:
            return {"multiple_of": multiple}
    step = width & -width  # its greatest power of two
    # Aimed at the middle of what is rounded up to the width, clear of both ends.
    return {"multiple_of": step, "ffn_dim_multiplier": (width - step // 2 + 0.5) / plain}


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    described = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta") or described.get("rope_theta") or _DEFAULT_THETA
    kind = described.get("rope_type") or described.get("type") or "default"
    if kind == "default":
        return {"rope_theta": theta}
    if kind == "llama3" and all(described.get(key) == value for key, value in _LLAMA3_ROPE.items()):
        return {"rope_theta": theta, "use_scaled_rope": True}
    raise ModelError(
        f"LLaMA's original code has no scaling of positions like {dict(described)!r}: write the "
        "layout of transformers, --format hf."
    )
