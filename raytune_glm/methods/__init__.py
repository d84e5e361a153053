"""Fine-tuning methods: one file a method, one line in the `AnyMethod` union.

`method.name` in a sweep file chooses the class; its other settings are that class's fields.
"""

from typing import Annotated, TypeAlias, get_args

from pydantic import Field

from raytune_glm.methods.base import Method
from raytune_glm.methods.freeze import Freeze
from raytune_glm.methods.full import Full
from raytune_glm.methods.lora import LoRA
from raytune_glm.methods.p_tuning_v2 import PTuningV2
from raytune_glm.methods.prompt_tuning import PromptTuning

AnyMethod: TypeAlias = Annotated[
    LoRA | PTuningV2 | PromptTuning | Freeze | Full,
    Field(discriminator="name"),
]
METHODS: dict[str, type[Method]] = {
    kind.model_fields["name"].default: kind for kind in get_args(get_args(AnyMethod)[0])
}

__all__ = ["METHODS", "AnyMethod", "Freeze", "Full", "LoRA", "Method", "PTuningV2", "PromptTuning"]
