"""Which attention function a model runs with.

All models attend through transformers' attention interface, so that any function of it can be
chosen by name. Checking a choice needs no torch. Read next: `loading`.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

from raytune_glm.errors import ModelError

if TYPE_CHECKING:
    from raytune_glm.models import Precision
    from raytune_glm.models.family import Family

Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]

_FLASH_MODULES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
"""What transformers imports for each FlashAttention."""


def check_attention(attention: Attention, family: Family, precision: Precision) -> None:
    """Refuse a FlashAttention that the family or the precision cannot have.

    Raises:
        ModelError: The setting, its value and what to write instead.
    """
    if attention not in _FLASH_MODULES:
        return
    if not family.supports_flash_attention:
        raise ModelError(
            f"`model.attention` must be auto, sdpa or eager for {family.name}, whose context is "
            "seen in both directions, which FlashAttention's masks cannot say, but got "
            f"attention={attention}."
        )
    if precision == "fp32":
        raise ModelError(
            f"`model.precision` must be bf16 or fp16 for attention={attention}, which computes in "
            "nothing else, but got precision=fp32."
        )


def chosen_implementation(
    attention: Attention,
    family: Family,
    *,
    precision: Precision,
    device: str,
    class_supports_flash: bool,
) -> str | None:
    """Give transformers' name of the attention to load a model with.

    Args:
        attention: What the user asks for. `auto` is FlashAttention 2 where it is installed and can
            run, and transformers' own choice elsewhere: SDPA, or eager attention in the few
            architectures that have nothing else.
        family: The model's family.
        precision: Of the arithmetic.
        device: Where the model goes.
        class_supports_flash: Whether transformers says so of the architecture.

    Returns:
        The name, or None for transformers' own choice.

    Raises:
        ModelError: The attention asked for cannot run here.
    """
    check_attention(attention, family, precision)
    on_gpu = device.startswith("cuda")
    if attention == "auto":
        can_flash = (
            on_gpu
            and precision != "fp32"
            and family.supports_flash_attention
            and class_supports_flash
            and importlib.util.find_spec(_FLASH_MODULES["flash_attention_2"]) is not None
        )
        return "flash_attention_2" if can_flash else None
    if attention in _FLASH_MODULES:
        module = _FLASH_MODULES[attention]
        if not on_gpu:
            raise ModelError(
                f"`model.attention` must be auto, sdpa or eager without a GPU, but got "
                f"attention={attention}."
            )
        if importlib.util.find_spec(module) is None:
            raise ModelError(
                f"attention={attention} needs the Python module {module}, which is not installed: "
                "install FlashAttention, or write `model.attention: sdpa`."
            )
    return attention
