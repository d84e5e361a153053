"""Fine-tuning methods: one file a method, one line in the `AnyMethod` union.

`method.name` in a sweep file chooses the class; its other settings are that class's fields.
"""

from typing import TypeAlias

from raytune_glm.methods.base import Method
from raytune_glm.methods.lora import LoRA

AnyMethod: TypeAlias = LoRA
METHODS: dict[str, type[Method]] = {"lora": LoRA}

__all__ = ["METHODS", "AnyMethod", "LoRA", "Method"]
