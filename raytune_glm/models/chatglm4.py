r"""GLM-4-9B's first release: the ChatGLM layout with a byte-pair vocabulary in tiktoken's format.

A row is `[gMASK]<sop><|user|>\n question <|assistant|>\n answer <|endoftext|>`, ChatGLM3's with
other start and end tokens. (The later release, `glm-4-9b-chat-hf`, is transformers' own `glm`
architecture and of the family `glm`.) Read next: `chatglm.tokenization4`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raytune_glm.models.chatglm import layout
from raytune_glm.models.chatglm_family import RoleFamily
from raytune_glm.models.role_rows import RoleFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONFIG_9B = {
    **layout.CONFIG_6B,
    "family": "chatglm4",
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "seq_length": 131072,
    "rope_ratio": 500,
    "layernorm_epsilon": 1.5625e-07,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}


class ChatGLM4(RoleFamily):
    """GLM-4-9B and GLM-4-9B-Chat as first released."""

    name = "chatglm4"
    # `[gMASK] <sop>`, the assistant's role token and line break, `<|endoftext|>`.
    rows = RoleFormat(start=("[gMASK]", "<sop>"), end="<|endoftext|>", num_reserved=5)
    # From `config.json` of THUDM/glm-4-9b-chat and glm-4-9b-chat-1m.
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType(
        {
            "glm-4-9b-chat": _CONFIG_9B,
            "glm-4-9b-chat-1m": {
                **_CONFIG_9B,
                "multi_query_group_num": 4,
                "seq_length": 1048576,
                "rope_ratio": 10000,
            },
        }
    )

    def build_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """See `Family.build_tokenizer`."""
        from raytune_glm.models.chatglm.tokenization4 import ChatGLM4Tokenizer

        tokenizer: PreTrainedTokenizerBase = ChatGLM4Tokenizer.from_pretrained(
            folder, local_files_only=True
        )
        return tokenizer
