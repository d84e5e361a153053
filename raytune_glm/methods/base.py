"""What the rest of the project may ask of a fine-tuning method. Read next: `lora`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.models.family import Family, ModelShape


class Method(BaseModel, ABC):
    """A fine-tuning method's settings, which put the method on a model by `apply`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @abstractmethod
    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse settings that cannot work, or would have no effect, on a model of this shape.

        Raises:
            ConfigError: The setting, its value and what to write instead.
        """

    @abstractmethod
    def trainable_parameters(self, shape: ModelShape, family: Family) -> int:
        """Work out how many parameters the method trains, without building the model."""

    @abstractmethod
    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Put the method on `model`: afterwards exactly what it trains has `requires_grad`.

        New weights are drawn from torch's current random state: seed it first.

        Returns:
            The model to train; `model` itself is changed by it.
        """

    @abstractmethod
    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put what was trained, as a trial's `best/` holds it, on a fresh base `model`.

        Returns:
            The model to evaluate; `model` itself is changed by it.
        """
