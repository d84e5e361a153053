"""What the families whose conversation is one text have in common: how rows become tokens.

Read next: `text_rows`, which does it; `llama`, `glm`, `generic`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raytune_glm.models.alpaca import known_template
from raytune_glm.models.family import Encoded, Family, Message
from raytune_glm.models.text_rows import TextRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextFamily(Family):
    """A family whose prompts are the tokenizer's chat template's, or Alpaca's.

    Args:
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    def __init__(self, *, template: str | None = None) -> None:
        self.template = template

    def with_template(self, name: str) -> Family:
        """See `Family.with_template`."""
        family = copy.copy(self)
        family.template = known_template(name)
        return family

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """See `Family.encode`."""
        return TextRows(tokenizer, self.template).encode_row(
            messages, max_length=max_length, max_source_length=max_source_length
        )

    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """See `Family.encode_prompt`."""
        rows = TextRows(tokenizer, self.template)
        return rows.encode_prompt(messages, max_source_length=max_source_length)

    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """See `Family.stop_token_ids`."""
        return TextRows(tokenizer, self.template).stop_token_ids()
