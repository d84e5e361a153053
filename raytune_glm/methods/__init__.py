"""Fine-tuning methods: one file a method, one line in the `AnyMethod` union.

`method.name` in a sweep file chooses the class; its other settings are that class's fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias, get_args

from pydantic import Field, ValidationError

from raytune_glm.errors import ModelError
from raytune_glm.methods.base import Method
from raytune_glm.methods.freeze import Freeze
from raytune_glm.methods.full import Full
from raytune_glm.methods.lora import LoRA
from raytune_glm.methods.p_tuning_v2 import PTuningV2
from raytune_glm.methods.prompt_tuning import PromptTuning
from raytune_glm.methods.weights import ABOUT
from raytune_glm.models import folder as folders

AnyMethod: TypeAlias = Annotated[
    LoRA | PTuningV2 | PromptTuning | Freeze | Full,
    Field(discriminator="name"),
]
METHODS: dict[str, type[Method]] = {
    kind.model_fields["name"].default: kind for kind in get_args(get_args(AnyMethod)[0])
}

PEFT_CONFIG = "adapter_config.json"

__all__ = [
    "METHODS",
    "AnyMethod",
    "Freeze",
    "Full",
    "LoRA",
    "Method",
    "PTuningV2",
    "PromptTuning",
    "holds_trained",
    "saved_method",
]


def holds_trained(folder: Path) -> bool:
    """Say whether a folder is one that a method, or PEFT, saved what it trained in."""
    return (folder / ABOUT).is_file() or (folder / PEFT_CONFIG).is_file()


def saved_method(folder: Path) -> Method:
    """Tell the method that saved a folder, with the settings that loading it needs.

    Raises:
        ModelError: The folder does not say, or names a method that is not one of ours.
    """
    if (folder / ABOUT).is_file():
        about = folders.read_json(folder, ABOUT)
        if about.get("name") not in METHODS:
            raise ModelError(
                f"{folder / ABOUT} must name one of {', '.join(METHODS)}, but has "
                f"name={about.get('name')!r}."
            )
        try:
            return METHODS[about["name"]].model_validate(about)
        except ValidationError as error:
            raise ModelError(f"{folder / ABOUT} is damaged: {error}") from None
    config = folders.read_json(folder, PEFT_CONFIG)
    for kind in METHODS.values():
        if kind.peft_type is not None and kind.peft_type == config.get("peft_type"):
            known = {
                ours: config[theirs]
                for ours, theirs in kind.peft_fields.items()
                if theirs in config
            }
            return kind.model_validate(known)
    raise ModelError(
        f"{folder / PEFT_CONFIG} must be of LORA, PREFIX_TUNING or PROMPT_TUNING, but has "
        f"peft_type={config.get('peft_type')!r}: load it with plain PEFT."
    )
