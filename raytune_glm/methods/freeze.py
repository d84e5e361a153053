"""Freeze: a part of the base trains as it is, usually its last layers; the rest is frozen.

ChatGLM-Finetuning's `--train_type freeze`. There a parameter trains where its name contains a piece
of text, so that `layers.2` would train layers 20 to 27 too; here whole parts of a name count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from raytune_glm.errors import ConfigError
from raytune_glm.methods import weights as saved_weights
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes
from raytune_glm.methods.names import matching

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.family import Family, ModelShape


def _as_list(value: Any) -> Any:
    """Take one pattern, or several between commas as the published flag has them, for a list."""
    return value.strip(",").split(",") if isinstance(value, str) else value


class Freeze(Method):
    """Train the last layers, or the named parts, of the base."""

    trains_base: ClassVar[bool] = True

    name: Literal["freeze"] = "freeze"
    num_trainable_layers: Annotated[int, Field(ge=1)] | None = None
    """Layers that train, counted from the last; write this or `module_patterns`. 5 in the published
    comparison of ChatGLM-Finetuning."""
    module_patterns: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Whole dotted parts of names, each of which must be in the name of some parameter: `layers.27`
    (or `layers.27.` as published), `mlp.dense_4h_to_h`, `final_layernorm`."""

    @model_validator(mode="after")
    def _check_one(self) -> Freeze:
        if (self.num_trainable_layers is None) == (not self.module_patterns):
            raise ValueError(
                "exactly one of `num_trainable_layers` and `module_patterns` must be given, but "
                f"got num_trainable_layers={self.num_trainable_layers}, "
                f"module_patterns={list(self.module_patterns)}"
            )
        return self

    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse more layers than there are, and patterns that no name has.

        Raises:
            ConfigError: The setting, its value and what to write instead.
        """
        count = self.num_trainable_layers
        if count is not None and count > shape.num_layers:
            raise ConfigError(
                f"method.num_trainable_layers must be at most {shape.num_layers}, the layers of "
                f"this model, but got num_trainable_layers={count}"
            )
        for pattern in self.module_patterns:
            if not matching(shape.parameters, (pattern,)):
                parts = sorted({name.split(".")[-2] for name in shape.parameters})
                raise ConfigError(
                    f"method.module_patterns must be parts of parameter names, but {pattern!r} "
                    f"matches nothing in this {family.name} model: write {family.layers_path}."
                    f"{shape.num_layers - 1} for its last layer, or one of {', '.join(parts)}"
                )

    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """The parameters that match."""
        chosen = matching(shape.parameters, self._patterns(shape.num_layers, family))
        return {name: size for name, size in shape.parameters.items() if name in chosen}

    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Freeze what does not match."""
        num_layers = len(list(model.get_submodule(family.layers_path).children()))
        names = [name for name, _ in model.named_parameters()]
        saved_weights.train_only(model, matching(names, self._patterns(num_layers, family)))
        return model

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the trained weights under their own names."""
        saved_weights.write_weights(self, weights, folder)

    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put the trained weights in place of the base's."""
        saved_weights.read_weights(model, folder)
        return model

    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """See `Method.misfit`."""
        return saved_weights.parameters_misfit(folder, shape)

    def changes(self, folder: Path) -> Changes:
        """See `Method.changes`: each trained weight takes the place of the base's."""
        return saved_weights.replacing_changes(folder)

    def _patterns(self, num_layers: int, family: Family) -> tuple[str, ...]:
        if self.num_trainable_layers is None:
            return self.module_patterns
        first = num_layers - self.num_trainable_layers
        return tuple(f"{family.layers_path}.{layer}" for layer in range(first, num_layers))
