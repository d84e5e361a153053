"""What a logbook asks of whatever trains: a DeepSpeed engine, or a slot of a pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """What one optimizer step did."""

    loss: float
    """Mean cross entropy over the label tokens of the whole step, all ranks."""
    grad_norm: float | None
    """2-norm of the step's gradient before clipping, all ranks; none where it overflowed."""
    learning_rate: float
    """The rate that the step was taken with; with several, the one of `train.learning_rate`."""
    skipped: bool = False
    """True where fp16's loss scaler found an overflow and left the weights as they were."""


class Trainer(Protocol):
    """A model that trains, seen from one rank."""

    @property
    def model(self) -> PreTrainedModel:
        """The model, with its method on it."""

    @property
    def applied_steps(self) -> int:
        """Optimizer steps that changed the weights."""

    @property
    def trainable_parameters(self) -> int:
        """How many parameters train."""

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Give the logits of a batch's last tokens; every rank calls it."""

    def save_state(self, folder: Path, tag: str) -> None:
        """Write what going on needs to `folder / tag`; every rank calls it."""

    def load_state(self, folder: Path, tag: str) -> None:
        """Read what `save_state` wrote."""

    def trained_weights(self) -> dict[str, Tensor]:
        """Copy what trains to the CPU, by parameter name; rank 0 gets it all."""

    def peak_memory_bytes(self) -> int:
        """Largest memory of any rank so far; every rank calls it."""
