"""Keys and values of rows that are being answered, with room for those to come.

Shape suffixes: B rows, K key-value heads, W columns, D head size, T tokens of a line.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64
"""Columns by which the room grows: few copies, and no more memory than the answers will need."""


class AnswerCache(Cache):
    """Its first columns are filled by `fill`; the model adds one after the other behind them."""

    def __init__(self, *, num_rows: int, num_columns: int) -> None:
        """Hold nothing yet.

        Args:
            num_rows: Rows of the batch.
            num_columns: Columns that will be filled before the model adds any.
        """
        super().__init__(layers=[])
        self._num_rows, self._num_columns = num_rows, num_columns

    def fill(
        self, layer: int, rows_T: Tensor, columns_T: Tensor, keys_TKD: Tensor, values_TKD: Tensor
    ) -> None:
        """Put keys and values of a layer, the first time one after the other, where they belong.

        What is not filled is 0, which the mask must hide.
        """
        if layer == len(self.layers):
            shape = (self._num_rows, keys_TKD.shape[1], self._num_columns)
            self.layers.append(_RoomyLayer(keys_TKD, shape))
        own: Any = self.layers[layer]
        own.keys[rows_T, :, columns_T] = keys_TKD
        own.values[rows_T, :, columns_T] = values_TKD


class _RoomyLayer(DynamicLayer):
    """Writes a token's keys and values in their place; transformers' own copies all others too."""

    def __init__(self, like_TKD: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # theirs
        self.dtype, self.device, self.is_initialized = like_TKD.dtype, like_TKD.device, True
        self._all_keys_BKWD = like_TKD.new_zeros(*shape, like_TKD.shape[-1])
        self._all_values_BKWD = torch.zeros_like(self._all_keys_BKWD)
        self._show(shape[-1])

    def _show(self, stop: int) -> None:
        self._stop = stop
        self.keys = self._all_keys_BKWD[:, :, :stop]
        self.values = self._all_values_BKWD[:, :, :stop]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        stop = self._stop + key_states.shape[-2]
        if stop > self._all_keys_BKWD.shape[2]:
            room = (0, 0, 0, _ROOM)
            self._all_keys_BKWD = nn.functional.pad(self._all_keys_BKWD, room)
            self._all_values_BKWD = nn.functional.pad(self._all_values_BKWD, room)
        self._all_keys_BKWD[:, :, self._stop : stop] = key_states
        self._all_values_BKWD[:, :, self._stop : stop] = value_states
        self._show(stop)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._all_keys_BKWD = self._all_keys_BKWD[indices]
        self._all_values_BKWD = self._all_values_BKWD[indices]
        self._show(self._stop)
