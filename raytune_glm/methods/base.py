"""What the rest of the project may ask of a fine-tuning method. Read next: `lora`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.methods.changes import Changes
    from raytune_glm.models.family import Family, ModelShape


class Method(BaseModel, ABC):
    """A fine-tuning method's settings, which put the method on a model by `apply`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    """Value of `method.name` in a sweep file."""

    trains_base: ClassVar[bool] = False
    """Whether weights of the base itself train, which therefore cannot be quantized."""
    peft_type: ClassVar[str | None] = None
    """What PEFT calls the method in `adapter_config.json`, where it has the method."""
    peft_fields: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Settings of the method -> their names in `adapter_config.json`."""
    leads_rows: ClassVar[bool] = False
    """Whether virtual tokens stand before each row, which then cannot stand behind another one."""

    @abstractmethod
    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse settings that cannot work, or would have no effect, on a model of this shape.

        Raises:
            ConfigError: The setting, its value and what to write instead.
        """

    @abstractmethod
    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """Say what trains, without building the model: name after `apply` -> elements."""

    def trainable_parameters(self, shape: ModelShape, family: Family) -> int:
        """Work out how many parameters the method trains, without building the model."""
        return sum(self.trained(shape, family).values())

    def added_tokens(self, family: Family) -> int:
        """Give the tokens that the method takes from the longest sequence of the model."""
        return 0

    @abstractmethod
    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Put the method on `model`: afterwards exactly what it trains has `requires_grad`.

        New weights are drawn from torch's current random state: seed it first.

        Returns:
            The model to train; `model` itself is changed by it.

        Raises:
            UserError: The model turns out not to be one that the method can train.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write what was trained: in PEFT's format where PEFT has the method.

        Args:
            model: What `apply` gave. Its weights may be spread over ranks: only `weights` count.
            weights: The trained parameters by name, whole, on the CPU.
            folder: Where to; made if it is not there.

        Raises:
            RuntimeError: What was written does not hold all that was trained.
        """

    @abstractmethod
    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put what was trained, as `save` wrote it, on a fresh base `model`.

        Returns:
            The model to evaluate; `model` itself is changed by it.

        Raises:
            ModelError: The folder does not hold what this method trains on such a model.
        """

    @abstractmethod
    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """Say what of that which `save` wrote does not fit a model of these sizes.

        It is told without torch where the file is safetensors.

        Returns:
            Words that follow "does not fit the base:"; None where all fits, or cannot be told.

        Raises:
            ModelError: A file is broken, or there is nothing in it.
        """

    @abstractmethod
    def changes(self, folder: Path) -> Changes:
        """Read what was trained as changes of the base's own weights, to merge them.

        Raises:
            ConfigError: It is no such change, and why.
            ModelError: The folder does not hold what this method trains.
        """
