"""Greedy answers of several slots at once.

The rows of all slots are one batch, each with its own slot's updates; rows that have come to their
end leave it. Token for token what `generate` gives for each row alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raytune_glm.data.collation import collate

if TYPE_CHECKING:
    from raytune_glm.packing.pack import Pack

SHRINK_SHARE = 0.2
"""Share of a batch's rows that must be over before the batch is made smaller, which costs a copy of
the cache."""


def generate_together(
    pack: Pack,
    prompts: Mapping[int, Sequence[Sequence[int]]],
    *,
    stops: Collection[int],
    max_new_tokens: int,
    pad_token_id: int,
) -> dict[int, list[list[int]]]:
    """Answer each slot's prompts greedily.

    Args:
        pack: The pack.
        prompts: Slot -> ids of prompts, one at least.
        stops: Ids that end an answer.
        max_new_tokens: Longest answer.
        pad_token_id: What fills short prompts up.

    Returns:
        Slot -> ids of each answer, its end among them.
    """
    slots = [slot for slot, texts in prompts.items() for _ in texts]
    texts = [{"input_ids": ids} for own in prompts.values() for ids in own]
    batch = collate(texts, pad_token_id=pad_token_id, padding_side="left")
    answers: list[list[int]] = [[] for _ in slots]
    rows = _Rows(batch["input_ids"].to(pack.device), batch["attention_mask"].to(pack.device), slots)
    ends = torch.tensor(sorted(stops), device=pack.device)
    with torch.inference_mode(), pack.evaluating():
        for _ in range(max_new_tokens):
            with pack.rows_of(rows.slots):
                chosen_B = rows.next_tokens(pack.shared)
            for row, token in zip(rows.numbers, chosen_B.tolist(), strict=True):
                if row is not None:
                    answers[row].append(token)
            rows.end(torch.isin(chosen_B, ends))
            if rows.are_over:
                break
    found: dict[int, list[list[int]]] = {slot: [] for slot in prompts}
    for slot, answer in zip(slots, answers, strict=True):
        found[slot].append(answer)
    return found


class _Rows:
    """A batch of rows that are being answered, with their cache."""

    def __init__(self, input_ids_BT: Tensor, mask_BS: Tensor, slots: Sequence[int]) -> None:
        from transformers.cache_utils import DynamicCache

        self._ids_BT = input_ids_BT
        self._mask_BS = mask_BS
        self._cache = DynamicCache()
        self.slots = list(slots)
        self.numbers: list[int | None] = list(range(len(slots)))
        """Number of each row of the batch; None for one that is over."""

    @property
    def are_over(self) -> bool:
        return all(number is None for number in self.numbers)

    def next_tokens(self, model: torch.nn.Module) -> Tensor:
        """Choose the next token of each row, and take it as the next input."""
        num_tokens = self._ids_BT.shape[1]
        positions_BT = (self._mask_BS.cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
        logits_B1V = model(
            input_ids=self._ids_BT,
            attention_mask=self._mask_BS,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        chosen_B: Tensor = logits_B1V[:, -1].argmax(-1)
        self._ids_BT = chosen_B[:, None]
        self._mask_BS = torch.nn.functional.pad(self._mask_BS, (0, 1), value=1)
        return chosen_B

    def end(self, over_B: Tensor) -> None:
        """Note which rows have come to their end; drop them once they are many."""
        for place, over in enumerate(over_B.tolist()):
            if over:
                self.numbers[place] = None
        kept = [place for place, number in enumerate(self.numbers) if number is not None]
        if not kept or len(kept) > (1 - SHRINK_SHARE) * len(self.numbers):
            return
        chosen = torch.tensor(kept, device=self._ids_BT.device)
        self._ids_BT, self._mask_BS = self._ids_BT[chosen], self._mask_BS[chosen]
        self._cache.batch_select_indices(chosen)
        self.slots = [self.slots[place] for place in kept]
        self.numbers = [self.numbers[place] for place in kept]
