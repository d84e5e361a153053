"""Modules of the base that some slots train whole.

Such a slot has a copy of its own, which its tokens go through; all other tokens go through the
base's. Below the first of them nothing asks for a gradient, and nothing is kept for a backward
pass. Read next: `slot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Part:
    """Neighbouring tokens that go through the same module."""

    length: int
    """How many they are."""
    copy: nn.Module | None
    """The module of the slot whose they are; none: the base's."""


def joined(parts: Sequence[Part]) -> list[Part]:
    """Take neighbours that go through the base as one."""
    found: list[Part] = []
    for part in parts:
        if found and part.copy is None and found[-1].copy is None:
            found[-1] = Part(length=found[-1].length + part.length, copy=None)
        else:
            found.append(part)
    return found


class SharedCopies(nn.Module):
    """A module of the base, and in its place, for their own tokens, the copies of slots."""

    def __init__(self, base: nn.Module, parts: Callable[[Tensor], Sequence[Part]]) -> None:
        """Wrap `base`, which treats each token by itself.

        Args:
            base: The module.
            parts: Tells of the inputs of a forward which tokens go through what.
        """
        super().__init__()
        self.base = base
        self._parts = parts

    def forward(self, inputs: Tensor) -> Tensor:
        """Each part through its module.

        Args:
            inputs: [1, places of the line, features] or [rows, tokens, features].
        """
        parts = self._parts(inputs)
        if all(part.copy is None for part in parts):
            outputs: Tensor = self.base(inputs)
            return outputs
        pieces = torch.split(inputs.flatten(0, -2), [part.length for part in parts])
        passed = [
            self.base(piece) if part.copy is None else part.copy(piece)
            for part, piece in zip(parts, pieces, strict=True)
        ]
        together = passed[0] if len(passed) == 1 else torch.cat(passed)
        return together.view(*inputs.shape[:-1], together.shape[-1])
