"""What checkpoints and probes ask of whatever trains: a DeepSpeed engine, or a slot of a pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Trainer(Protocol):
    """A model that trains, seen from one rank."""

    @property
    def model(self) -> PreTrainedModel:
        """The model, with its method on it."""

    @property
    def applied_steps(self) -> int:
        """Optimizer steps that changed the weights."""

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Give the logits of a batch's last tokens; every rank calls it."""

    def save_state(self, folder: Path, tag: str) -> None:
        """Write what going on needs to `folder / tag`; every rank calls it."""

    def load_state(self, folder: Path, tag: str) -> None:
        """Read what `save_state` wrote."""

    def trained_weights(self) -> dict[str, Tensor]:
        """Copy what trains to the CPU, by parameter name; rank 0 gets it all."""
