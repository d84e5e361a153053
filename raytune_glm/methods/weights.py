"""Trained weights on disk: tensors under the names of the model's parameters, settings beside them.

For methods that PEFT does not have. Read next: `freeze`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm import files
from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes
from raytune_glm.models import folder as folders

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.family import ModelShape

WEIGHTS = "weights.safetensors"
ABOUT = "method.json"
_PUBLISHED_WEIGHTS = "pytorch_model.bin"


def train_only(model: PreTrainedModel, names: Collection[str]) -> None:
    """Have exactly the parameters of these names train.

    Raises:
        ConfigError: One of them is quantized, so that no gradient can move it.
    """
    for name, parameter in model.named_parameters():
        if name in names and not parameter.is_floating_point():
            raise ConfigError(
                f"weights of the base must not be quantized where they train, but {name} is "
                f"{parameter.dtype}: use a checkpoint that is not quantized, or lora"
            )
        parameter.requires_grad_(name in names)


def write_weights(method: Method, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights under their names, and the settings of the method that trained them.

    Raises:
        RuntimeError: The file does not hold all of them.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), folder / WEIGHTS, metadata={"format": "pt"})
    files.write_json(folder / ABOUT, method.model_dump(mode="json"))
    require_saved(folder / WEIGHTS, weights)


def require_saved(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Read a file back and refuse it unless it holds what was trained, and something was.

    Args:
        path: The file.
        weights: The tensors by the names that they are saved under.

    Raises:
        RuntimeError: The file lacks one, has another value for it, or there are none.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as saved:
        names = set(saved.keys())
        lost = [
            name
            for name, tensor in weights.items()
            if name not in names or not torch.equal(saved.get_tensor(name), tensor.cpu())
        ]
    if lost or not names:
        raise RuntimeError(
            f"{path} must hold all {len(weights)} trained tensors, at least one, as they were "
            f"trained, but holds {len(names)}" + (f" and not {lost[0]}" if lost else "")
        )


def read_weights(
    model: PreTrainedModel, folder: Path, *, names: Collection[str] | None = None
) -> None:
    """Put saved weights into a model.

    Args:
        model: The model, with all the parameters that were trained.
        folder: Where `write_weights` wrote, or a folder with a published `pytorch_model.bin`.
        names: The parameters that must be there, others being left aside; by default those that are
            there.

    Raises:
        ModelError: Some are missing, or do not fit the model.
    """
    saved = _read(folder)
    wanted = saved if names is None else {name: saved[name] for name in names if name in saved}
    own = dict(model.named_parameters())
    missing = sorted(set(names or ()) - saved.keys())
    unknown = sorted(name for name in wanted if name not in own)
    unfit = sorted(name for name in wanted if name in own and wanted[name].shape != own[name].shape)
    for what, found in (("lacks", missing), ("has", unknown), ("has in another shape", unfit)):
        if found:
            raise ModelError(
                f"the weights in {folder} must be those that this method trains on this model, but "
                f"the file {what} {', '.join(found[:3])}: use the base and the settings that they "
                "were trained with."
            )
    model.load_state_dict(wanted, strict=False)


def parameters_misfit(folder: Path, shape: ModelShape) -> str | None:
    """Say which saved weight is no parameter of a model, or of another size; None where all fit.

    Raises:
        ModelError: The file is broken.
    """
    if not (folder / WEIGHTS).is_file():
        return None  # `.bin` takes torch to read; loading it tells the same, later
    for name, header in folders.read_header(folder / WEIGHTS).items():
        if name not in shape.parameters:
            return f"it has {name}, which the model does not have"
        if prod(header.shape) != shape.parameters[name]:
            return (
                f"its {name} has {prod(header.shape)} values, and the model's "
                f"{shape.parameters[name]}"
            )
    return None


def replacing_changes(folder: Path) -> Changes:
    """Read saved weights as changes that put each in place of the base's of that name.

    Raises:
        ModelError: There are none.
    """
    return Changes(
        by_name={name: partial(_replace, folder, new) for name, new in _read(folder).items()},
        ties_hold=True,
    )


def _replace(folder: Path, new: Tensor, weight: Tensor) -> Tensor:
    if new.shape != weight.shape:
        raise ModelError(
            f"the weights in {folder} must have the shapes of the base's, but one is "
            f"{list(new.shape)} where the base's is {list(weight.shape)}: use the base that they "
            "were trained on."
        )
    return new.float()


def _read(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).exists():
        from safetensors.torch import load_file

        return load_file(folder / WEIGHTS)
    if (folder / _PUBLISHED_WEIGHTS).exists():
        import torch

        published: dict[str, Tensor] = torch.load(
            folder / _PUBLISHED_WEIGHTS, map_location="cpu", weights_only=True
        )
        return published
    raise ModelError(f"{folder} must hold {WEIGHTS} or {_PUBLISHED_WEIGHTS}, but has neither.")
