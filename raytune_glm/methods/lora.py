"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank matrices beside frozen linears, by PEFT."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from raytune_glm.errors import ConfigError
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes
from raytune_glm.methods.lora_changes import adapted_misfit, lora_changes
from raytune_glm.methods.weights import require_saved

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.family import Family, LinearShape, ModelShape


ModuleGroup: TypeAlias = Literal["attention", "mlp", "all"]


def _groups_or_names(value: Any) -> Any:
    """Take one module's name for a list of one, and refuse what is neither names nor a group."""
    if value is None or value in typing.get_args(ModuleGroup):
        return value
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"must be attention, mlp, all or a list of names, but got {value!r}")
    return tuple(names)


class LoRA(Method):
    """`W + (alpha / rank) * B @ A` on each target, with `W` frozen and `B` zero at the start."""

    peft_type: ClassVar[str | None] = "LORA"
    peft_fields: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "rank": "r",
            "alpha": "lora_alpha",
            "rank_stabilized": "use_rslora",
            "use_dora": "use_dora",
        }
    )

    name: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    """Rows of A and columns of B. 8 in ChatGLM-Tuning and Alpaca-LoRA."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update, divided by the rank. 32 in ChatGLM-Tuning, 16 in Alpaca-LoRA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an input element of A is dropped in training."""
    target_modules: Annotated[
        ModuleGroup | tuple[str, ...] | None, BeforeValidator(_groups_or_names)
    ] = None
    """Linears to adapt: the last parts of their module names, or the family's `attention`, `mlp` or
    `all` of them. None: those that the published tools adapt for this family."""
    rank_stabilized: bool = False
    """Divide alpha by the square root of the rank instead (rsLoRA, arXiv 2312.03732)."""
    use_dora: bool = False
    """Train the length of each row of the adapted weight apart from its direction (DoRA, arXiv
    2402.09353): one more parameter a row, and a slower step."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases of the base that train too: none, all of the model's, or those of the targets. The
    adapter then changes the model even where it is switched off."""

    def _wanted(self, family: Family) -> tuple[str, ...]:
        groups = {
            None: family.default_lora_modules,
            "attention": family.attention_modules,
            "mlp": family.mlp_modules,
            "all": family.attention_modules + family.mlp_modules,
        }
        if isinstance(self.target_modules, tuple):
            return self.target_modules
        return groups[self.target_modules]

    def targets(self, shape: ModelShape, family: Family) -> list[LinearShape]:
        """The linears that get an adapter.

        Raises:
            ConfigError: No target was named, or a named one matches nothing in the model.
        """
        wanted = self._wanted(family)
        known = sorted({linear.name.rsplit(".", 1)[-1] for linear in shape.linears})
        if not wanted:
            raise ConfigError(
                "method.target_modules must name at least one linear, but the list is empty: "
                f"choose from {', '.join(known)}, or write attention, mlp or all"
            )
        for target in wanted:
            if not any(_is_named(linear.name, target) for linear in shape.linears):
                raise ConfigError(
                    f"method.target_modules must name linears of the model, but {target!r} matches "
                    f"nothing in this {family.name} model: its linears are {', '.join(known)}"
                )
        return [
            linear
            for linear in shape.linears
            if any(_is_named(linear.name, target) for target in wanted)
        ]

    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse targets that match nothing, a rank that no target can use, biases that are none.

        Raises:
            ConfigError: The setting, its value and what to write instead.
        """
        smallest = min(
            self.targets(shape, family), key=lambda t: min(t.in_features, t.out_features)
        )
        limit = min(smallest.in_features, smallest.out_features)
        if self.rank > limit:
            raise ConfigError(
                f"method.rank must be at most {limit}, the smaller side of {smallest.name}, "
                f"but got rank={self.rank}: a higher rank adds parameters and no freedom"
            )
        if self.bias != "none" and not self._biases(shape, family):
            raise ConfigError(
                f"method.bias must be none for this {family.name} model and these targets, which "
                f"have no bias, but got bias={self.bias}"
            )

    def trainable_parameters(self, shape: ModelShape, family: Family) -> int:
        """`rank * (in + out)` for each target, for DoRA its rows, and the biases that train."""
        return sum(
            self.rank * (t.in_features + t.out_features) + self.use_dora * t.out_features
            for t in self.targets(shape, family)
        ) + sum(self._biases(shape, family))

    def _biases(self, shape: ModelShape, family: Family) -> list[int]:
        """Elements of each bias of the base that trains."""
        if self.bias == "none":
            return []
        if self.bias == "lora_only":
            names = [f"{target.name}.bias" for target in self.targets(shape, family)]
        else:
            names = [name for name in shape.parameters if name.endswith(".bias")]
        return [shape.parameters[name] for name in names if name in shape.parameters]

    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Wrap the targets with PEFT's LoRA layers; everything else is frozen."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT only divides it
            lora_dropout=self.dropout,
            target_modules=list(self._wanted(family)),
            use_rslora=self.rank_stabilized,
            use_dora=self.use_dora,
            bias=self.bias,
        )
        return get_peft_model(model, config)  # type: ignore[return-value]  # it stands in for one

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the adapter as PEFT does."""
        from peft import get_peft_model_state_dict

        model.save_pretrained(folder, state_dict=dict(weights), safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        saved = get_peft_model_state_dict(model, state_dict=dict(weights))
        assert len(saved) == len(weights), "PEFT saves what it knows, and it must know all of it"
        require_saved(folder / "adapter_model.safetensors", saved)

    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put a saved adapter on `model`, as plain PEFT does."""
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(folder))  # type: ignore[return-value]

    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """See `Method.misfit`: every adapted module must be there, in its size."""
        return adapted_misfit(folder, shape)

    def changes(self, folder: Path) -> Changes:
        """See `Method.changes`."""
        return lora_changes(folder)


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")
