"""Full fine-tuning: every parameter of the base trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from raytune_glm.methods import weights as saved_weights
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.family import Family, ModelShape


class Full(Method):
    """Train the whole model; `best/` then holds all of its weights."""

    trains_base: ClassVar[bool] = True

    name: Literal["full"] = "full"

    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse nothing: there is nothing to set."""

    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """All of the model's parameters, tied ones once."""
        return dict(shape.parameters)

    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Have every parameter train."""
        saved_weights.train_only(model, {name for name, _ in model.named_parameters()})
        return model

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write all weights under their own names, tied ones once."""
        saved_weights.write_weights(self, weights, folder)

    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put the weights in place of the base's."""
        names = {name for name, _ in model.named_parameters()}
        saved_weights.read_weights(model, folder, names=names)
        return model

    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """See `Method.misfit`."""
        return saved_weights.parameters_misfit(folder, shape)

    def changes(self, folder: Path) -> Changes:
        """See `Method.changes`: each trained weight takes the place of the base's."""
        return saved_weights.replacing_changes(folder)
