r"""ChatGLM3-6B: role tokens around each turn.

A row is `[gMASK] sop <|user|> "\n" question <|assistant|> "\n" answer </s>`, as the published
training code (ChatGLM-Finetuning at a137ad63) builds it. Read next: `chatglm.tokenization`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from raytune_glm.models.chatglm import layout
from raytune_glm.models.chatglm_family import RoleFamily
from raytune_glm.models.role_rows import RoleFormat


class ChatGLM3(RoleFamily):
    """ChatGLM3-6B and its base and 32k variants."""

    name = "chatglm3"
    # The published code takes 9 tokens from what the source leaves to the answer: `[gMASK] sop`,
    # the assistant's role token and line break (3 tokens), `</s>`, and 3 that stay unused in a full
    # row.
    rows = RoleFormat(start=("[gMASK]", "sop"), end="</s>", num_reserved=9)
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "chatglm3-6b": {**layout.CONFIG_6B, "family": "chatglm3"},
            "chatglm3-6b-32k": {
                **layout.CONFIG_6B,
                "family": "chatglm3",
                "seq_length": 32768,
                "rope_ratio": 50,
            },
        }
    )
