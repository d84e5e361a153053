"""LoRA's adapter file in PEFT's format, as changes of the base's weights.

The arithmetic is that of `get_delta_weight` and `merge` of PEFT 0.21's LoRA and DoRA layers, in
fp32 throughout. What this file does not know is refused by name: an adapter that is merged in part
is worse than one that is not. Read next: `lora`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.methods.changes import Change, Changes
from raytune_glm.models import folder as folders

if TYPE_CHECKING:
    from torch import Tensor

    from raytune_glm.models.family import ModelShape

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_OLD_WEIGHTS = "adapter_model.bin"
"""What PEFT wrote before it had safetensors, and ChatGLM-Tuning and Alpaca-LoRA with it."""

_PREFIX = "base_model.model."
_MARK = ".lora_"
_PARTS = ({"A", "B"}, {"A", "B", "magnitude_vector"})
"""Tensors of an adapted linear: LoRA's, and DoRA's."""

_UNDERSTOOD = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("fan_in_fan_out", "bias", "modules_to_save", "init_lora_weights"),
}
"""Settings that a merge depends on."""
_WITHOUT_EFFECT = {
    *("peft_type", "peft_version", "task_type", "inference_mode", "base_model_name_or_path"),
    *("revision", "auto_mapping", "parent_library", "lora_dropout"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_core", "qalora_group_size", "eva_config"),
}
"""Settings that a merge does not depend on: the file's tensors say which modules are adapted."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base's own weights as they are."""


def lora_changes(folder: Path) -> Changes:
    """Read a LoRA adapter as changes of the base's weights.

    Raises:
        ConfigError: It has a setting or a tensor that cannot be merged here.
        ModelError: Its files are missing or broken.
    """
    config = folders.read_json(folder, CONFIG)
    _refuse_unknown(config, folder)
    adapted, replaced = _sorted(_read(folder))
    changes: dict[str, Change] = {name: partial(_replace, new) for name, new in replaced.items()}
    for module, parts in adapted.items():
        if set(parts) not in _PARTS:
            raise ConfigError(
                f"an adapter to merge must have lora_A and lora_B for each module, but {module} in "
                f"{folder} has lora_{', lora_'.join(sorted(parts))}: merge it with plain PEFT"
            )
        changes[f"{module}.weight"] = partial(
            _update,
            parts,
            scale=_scale(config, module, rank=parts["A"].shape[0]),
            transposed=bool(config.get("fan_in_fan_out")),
        )
    return Changes(by_name=changes, ties_hold=False)


def adapted_misfit(folder: Path, shape: ModelShape) -> str | None:
    """Say which module of an adapter a model lacks, or has in another size; None where all fit.

    Raises:
        ModelError: The adapter is broken, or empty.
    """
    linears = {linear.name: linear for linear in shape.linears}
    sizes = _sizes(folder)
    if not any(_MARK in key for key in sizes):
        raise ModelError(
            f"an adapter must hold what was trained, but the file in {folder} holds no LoRA "
            f"weights ({len(sizes)} tensors): it was saved empty, so there is nothing to use."
        )
    for key, size in sizes.items():
        module, mark, part = _name(key).partition(_MARK)
        if not mark or part.partition(".")[0] not in ("A", "B"):
            continue
        if module not in linears:
            if f"{module}.weight" in shape.parameters:
                continue
            return f"it adapts {module}, which the model does not have"
        is_input = part.startswith("A")
        wanted = linears[module].in_features if is_input else linears[module].out_features
        found = size[1] if is_input else size[0]
        if found != wanted:
            side = "inputs" if is_input else "outputs"
            return f"it adapts {module} with {found} {side}, and the model's has {wanted}"
    return None


def _sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Give the shape of each tensor in an adapter; of a safetensors file, without torch."""
    if (folder / WEIGHTS).is_file():
        headers = folders.read_header(folder / WEIGHTS)
        return {name: header.shape for name, header in headers.items()}
    return {name: tuple(tensor.shape) for name, tensor in _read(folder).items()}


def _refuse_unknown(config: Mapping[str, Any], folder: Path) -> None:
    for key, value in config.items():
        if value and key not in _UNDERSTOOD | _WITHOUT_EFFECT:
            raise ConfigError(
                f"an adapter to merge must be plain LoRA, DoRA or rsLoRA, but {folder / CONFIG} "
                f"has {key}={value!r}: merge it with plain PEFT"
            )
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ConfigError(
            "an adapter to merge must start from the base's own weights, but "
            f"{folder / CONFIG} has init_lora_weights={start!r}, which changes them: convert it "
            "with PEFT's `path_initial_model_for_weight_conversion` first"
        )


def _read(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        from safetensors.torch import load_file

        folders.read_header(folder / WEIGHTS)
        return load_file(folder / WEIGHTS)
    if (folder / _OLD_WEIGHTS).is_file():
        import torch

        tensors: dict[str, Tensor] = torch.load(
            folder / _OLD_WEIGHTS, map_location="cpu", weights_only=True
        )
        return tensors
    raise ModelError(f"{folder} must hold {WEIGHTS} or {_OLD_WEIGHTS}, but has neither.")


def _name(key: str) -> str:
    """Give the base's name of what a tensor of the adapter belongs to."""
    name = key.removeprefix(_PREFIX)
    return name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _sorted(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Part the tensors into those of adapted modules, by part, and whole new weights, by name."""
    adapted: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, mark, part = _name(key).partition(_MARK)
        if mark:
            adapted.setdefault(module, {})[part.removesuffix(".weight")] = tensor.float()
        else:
            replaced[module] = tensor.float()
    return adapted, replaced


def _scale(config: Mapping[str, Any], module: str, *, rank: int) -> float:
    alpha = float(config["lora_alpha"])
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        # As PEFT matches its patterns: whole name, or its last dotted parts.
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _update(
    parts: Mapping[str, Tensor], weight: Tensor, *, scale: float, transposed: bool
) -> Tensor:
    """Add the low-rank product; with DoRA, bring each row to its learnt length."""
    plain = weight.T if transposed else weight
    new = plain + scale * (parts["B"] @ parts["A"])
    lengths = parts.get("magnitude_vector")
    if lengths is not None:
        new = new * (lengths / new.norm(dim=1))[:, None]
    return new.T if transposed else new


def _replace(new: Tensor, weight: Tensor) -> Tensor:
    if new.shape != weight.shape:
        raise ModelError(
            f"a weight that was trained beside an adapter must have the base's shape "
            f"{list(weight.shape)}, but has {list(new.shape)}: was the vocabulary resized? Merge "
            "into a base that was resized alike."
        )
    return new
