"""Greedy answers of several slots at once.

The rows of all slots are one batch, each with its own slot's updates, prompt and prefix; rows that
have come to their end leave it. Token for token what `generate` gives for each row alone.

Shape suffixes: B rows, T tokens of this call, S columns so far (prefix, padding, tokens), W columns
of the whole answer, H hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raytune_glm.models.caching import CACHE
from raytune_glm.packing.attention import Keep
from raytune_glm.packing.cache import AnswerCache
from raytune_glm.packing.pack import TOKENS_A_PASS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raytune_glm.models.chatglm.prefix import Prefix
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
    texts = [ids for own in prompts.values() for ids in own]
    answers: list[list[int]] = [[] for _ in slots]
    ends = torch.tensor(sorted(stops), device=pack.device)
    with torch.inference_mode(), pack.evaluating():
        rows = _Rows(pack, slots, texts, room=max_new_tokens, pad_token_id=pad_token_id)
        for number in range(max_new_tokens):
            chosen_B = rows.next_tokens() if number else rows.read()
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
    """A batch of rows that are being answered, with their cache.

    Columns are the longest prefix, then the longest row; what is shorter stands to the right.
    """

    def __init__(
        self,
        pack: Pack,
        slots: Sequence[int],
        texts: Sequence[Sequence[int]],
        *,
        room: int,
        pad_token_id: int,
    ) -> None:
        self.slots = list(slots)
        self.numbers: list[int | None] = list(range(len(slots)))
        """Number of each row of the batch; None for one that is over."""
        self._pack = pack
        self._texts = texts
        self._num_prefix = max(pack.slots[slot].num_prefix for slot in slots)
        virtual = [pack.slots[slot].num_virtual for slot in slots]
        self._lengths = [count + len(text) for count, text in zip(virtual, texts, strict=True)]
        longest = max(self._lengths)
        self._starts = [longest - length for length in self._lengths]
        self._lay_out(room=room, pad_token_id=pad_token_id)
        self._cache = AnswerCache(num_rows=len(slots), num_columns=self._num_prefix + longest)

    def _lay_out(self, *, room: int, pad_token_id: int) -> None:
        """Note the rows' places and masks; each starts at a column after the prefix."""
        is_token, places, context_stops = [], [], []
        for number, text, start in zip(self.slots, self._texts, self._starts, strict=True):
            slot = self._pack.slots[number]
            # The places of the tokens that will follow, too.
            own_places, context = self._pack.places(number, [*text, *[pad_token_id] * room])
            places.append(np.pad(own_places, [(0, 0)] * (own_places.ndim - 1) + [(start, 0)]))
            context_stops.append(self._num_prefix + start + context)
            prefix = [False] * (self._num_prefix - slot.num_prefix) + [True] * slot.num_prefix
            tokens = [True] * (slot.num_virtual + len(text))
            is_token.append([*prefix, *[False] * start, *tokens])
        device = self._pack.device
        self._is_token_BS = torch.tensor(is_token, device=device)
        self._context_stop_B = torch.tensor(context_stops, device=device)
        """Every token of a row sees its tokens before this column."""
        self._places_BW = torch.as_tensor(np.stack(places), device=device)
        """[B, W], or [B, 2, W] where there are two streams of them."""

    def read(self) -> Tensor:
        """Read the prompts, in lines without padding; choose the first token of each answer."""
        chosen = []
        for first, stop in self._pieces():
            prompts = list(zip(self.slots[first:stop], self._texts[first:stop], strict=True))
            chosen.append(self._pack.read(prompts, self._keep(first, stop)))
        for number in dict.fromkeys(self.slots):
            encoder = self._pack.slots[number].prefix_encoder
            if encoder is not None:
                self._keep_prefix(number, encoder.eval()(1, self._pack.base.dtype))
        return self._take(torch.cat(chosen))

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Cut the rows into runs that go through one pass each; give their first and their stop."""
        first, num_tokens = 0, 0
        for row, length in enumerate(self._lengths):
            if row > first and num_tokens + length > TOKENS_A_PASS:
                yield first, row
                first, num_tokens = row, 0
            num_tokens += length
        yield first, len(self._lengths)

    def _keep(self, first: int, stop: int) -> Keep:
        """What puts the keys and values of some rows, laid end to end, into the cache."""
        lengths = np.array(self._lengths[first:stop])
        ends = self._num_prefix + max(self._lengths)
        rows = np.repeat(np.arange(first, stop), lengths)
        columns = np.concatenate([np.arange(ends - length, ends) for length in lengths])
        rows_T, columns_T = self._indices(rows), self._indices(columns)
        return lambda layer, keys, values: self._cache.fill(layer, rows_T, columns_T, keys, values)

    def _keep_prefix(self, number: int, prefix: Prefix) -> None:
        """Put a slot's learnt keys and values before its rows."""
        own = [row for row, slot in enumerate(self.slots) if slot == number]
        for layer, halves in enumerate(prefix):
            keys, values = (half[0].transpose(0, 1).repeat(len(own), 1, 1) for half in halves)
            columns = np.arange(self._num_prefix - len(keys) // len(own), self._num_prefix)
            rows_T = self._indices(np.repeat(own, len(columns)))
            columns_T = self._indices(np.tile(columns, len(own)))
            self._cache.fill(layer, rows_T, columns_T, keys, values)

    def _indices(self, values: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(values, device=self._pack.device)

    @property
    def are_over(self) -> bool:
        return all(number is None for number in self.numbers)

    def next_tokens(self) -> Tensor:
        """Choose the next token of each row."""
        stop = self._is_token_BS.shape[1]
        start = int(self._cache.get_seq_length())
        places = self._places_BW[..., start - self._num_prefix : stop - self._num_prefix]
        with self._pack.rows_of(self.slots):
            logits_B1V = self._pack.shared(
                input_ids=self._chosen_B[:, None],
                attention_mask=self._mask(start),
                position_ids=places,
                use_cache=True,
                **{CACHE: self._cache},
            ).logits
        return self._take(logits_B1V[:, -1].argmax(-1))

    def _take(self, chosen_B: Tensor) -> Tensor:
        """Take the chosen tokens as the next input."""
        self._chosen_B = chosen_B
        self._is_token_BS = nn.functional.pad(self._is_token_BS, (0, 1), value=True)
        return chosen_B

    def _mask(self, start: int) -> Tensor:
        """Which columns are tokens; of models that read contexts whole, what no query may see."""
        if not self._pack.reads_contexts_whole:
            return self._is_token_BS.long()
        columns_S = torch.arange(self._is_token_BS.shape[1], device=self._pack.device)
        queries_T1 = columns_S[start:, None]
        is_context_BS = columns_S < self._context_stop_B[:, None]
        seen_BTS = (columns_S <= queries_T1) | is_context_BS[:, None]
        # A pad sees itself, so that no row of scores is empty.
        allowed_BTS = (seen_BTS & self._is_token_BS[:, None]) | (columns_S == queries_T1)
        return ~allowed_BTS[:, None]

    def end(self, over_B: Tensor) -> None:
        """Note which rows have come to their end; drop them once they are many."""
        for place, over in enumerate(over_B.tolist()):
            if over:
                self.numbers[place] = None
        kept = [place for place, number in enumerate(self.numbers) if number is not None]
        if not kept or len(kept) > (1 - SHRINK_SHARE) * len(self.numbers):
            return
        chosen = torch.tensor(kept, device=self._pack.device)
        self._chosen_B = self._chosen_B[chosen]
        self._is_token_BS = self._is_token_BS[chosen]
        self._context_stop_B = self._context_stop_B[chosen]
        self._places_BW = self._places_BW[chosen]
        self._cache.batch_select_indices(chosen)
        self.slots = [self.slots[place] for place in kept]
        self.numbers = [self.numbers[place] for place in kept]
