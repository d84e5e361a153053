"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank matrices beside frozen linears, by PEFT."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
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


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


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
    modules_to_save: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = ()
    """Modules that train whole beside the adapters, and are saved with them: the last parts of
    their names, such as `lm_head` or `embed_tokens`."""

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
        """Refuse names that match nothing, a rank that no target can use, biases that are none.

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
        self._check_whole(shape, family)
        if self.bias != "none" and not self._biases(shape, family):
            raise ConfigError(
                f"method.bias must be none for this {family.name} model and these targets, which "
                f"have no bias, but got bias={self.bias}"
            )

    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """`rank * (in + out)` for each target, for DoRA its rows, biases, and what trains whole."""
        sizes = {}
        for target in self.targets(shape, family):
            sizes[f"{target.name}.lora_A.default.weight"] = self.rank * target.in_features
            sizes[f"{target.name}.lora_B.default.weight"] = self.rank * target.out_features
            if self.use_dora:
                sizes[f"{target.name}.lora_magnitude_vector.default.weight"] = target.out_features
        sizes |= self._biases(shape, family)
        for module, inside in self._whole(shape.parameters).items():
            for name in inside:
                wrapped = f"{module}.modules_to_save.default{name.removeprefix(module)}"
                sizes[wrapped] = shape.parameters[name]
        return {f"base_model.model.{name}": size for name, size in sizes.items()}

    def _biases(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """The biases of the base that train: name in PEFT's model -> elements."""
        targets = [target.name for target in self.targets(shape, family)]
        sizes = {}
        if self.bias != "none":
            own = {f"{name}.bias": f"{name}.base_layer.bias" for name in targets}
            sizes = {n: shape.parameters[b] for b, n in own.items() if b in shape.parameters}
        if self.bias == "all":
            inside = {name for names in self._whole(shape.parameters).values() for name in names}
            sizes |= {
                name: size
                for name, size in shape.parameters.items()
                if name.endswith(".bias") and name not in own and name not in inside
            }
        return sizes

    def _whole(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The modules that train whole: name -> the names of their parameters."""
        found: dict[str, list[str]] = {}
        for name in names:
            parts = name.split(".")
            paths = (".".join(parts[:depth]) for depth in range(1, len(parts)))
            wanted = self.modules_to_save
            module = next((p for p in paths if any(_is_named(p, w) for w in wanted)), None)
            if module is not None:
                found.setdefault(module, []).append(name)
        return found

    def _check_whole(self, shape: ModelShape, family: Family) -> None:
        """Refuse modules that are not there, or in which the adapters are."""
        modules = self._whole(shape.parameters)
        for wanted in self.modules_to_save:
            if not any(_is_named(module, wanted) for module in modules):
                outside = (n for n in shape.parameters if not n.startswith(family.layers_path))
                known = sorted({name.split(".")[-2] for name in outside})
                raise ConfigError(
                    f"method.modules_to_save must name modules of the model, but {wanted!r} "
                    f"matches nothing in this {family.name} model: outside its layers it has "
                    f"{', '.join(known)}"
                )
        for target in self.targets(shape, family):
            if any(f"{target.name}.".startswith(f"{module}.") for module in modules):
                raise ConfigError(
                    f"method.modules_to_save must not hold {target.name}, which is one of "
                    f"method.target_modules: a module trains whole or by an adapter, but got "
                    f"modules_to_save={list(self.modules_to_save)}"
                )

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
            modules_to_save=self._apply_whole(model) or None,
        )
        return get_peft_model(model, config)  # type: ignore[return-value]  # it stands in for one

    def _apply_whole(self, model: PreTrainedModel) -> list[str]:
        """Give the modules of a built model that train whole.

        Raises:
            ConfigError: One of them is quantized.
        """
        own = dict(model.named_parameters())
        modules = self._whole(own)
        for module, names in modules.items():
            if not all(own[name].is_floating_point() for name in names):
                raise ConfigError(
                    "method.modules_to_save must name modules that are not quantized, but "
                    f"{module} is: leave it out, or model.quantization"
                )
        return list(modules)

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the adapter as PEFT does."""
        from peft import get_peft_model_state_dict

        adapted: Any = model
        # An empty model card, which takes longer than all else.
        adapted.create_or_update_model_card = lambda output_dir: None
        try:
            adapted.save_pretrained(
                folder,
                state_dict=dict(weights),
                safe_serialization=True,
                # `weights` has those that train; else PEFT reads the base's configuration each time
                # to see whether its embeddings have another size now.
                save_embedding_layers=False,
            )
        finally:
            del adapted.create_or_update_model_card
        (folder / "README.md").unlink(missing_ok=True)  # of a PEFT that makes it in another way
        saved = get_peft_model_state_dict(
            model, state_dict=dict(weights), save_embedding_layers=False
        )
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
