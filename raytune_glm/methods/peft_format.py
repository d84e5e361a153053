"""PEFT's format for learnt prompts and prefixes: one tensor, and the configuration beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.errors import ModelError
from raytune_glm.methods.weights import require_saved
from raytune_glm.models import folder as folders

if TYPE_CHECKING:
    from peft import PromptLearningConfig
    from torch import Tensor, nn
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
_PROMPT = "prompt_embeddings"


def sizes_of(model: PreTrainedModel) -> dict[str, Any]:
    """What PEFT's configurations of learnt prompts say of the base."""
    config = model.config.get_text_config()
    return {
        "base_model_name_or_path": model.name_or_path,
        "inference_mode": True,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }


def write_prompt(config: PromptLearningConfig, prompt: Tensor, folder: Path) -> None:
    """Write a prompt [virtual tokens, values] and its configuration.

    Raises:
        RuntimeError: The file does not hold it.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({_PROMPT: prompt.contiguous()}, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    require_saved(folder / WEIGHTS, {_PROMPT: prompt})


def read_prompt(folder: Path) -> Tensor:
    """Read the prompt of a folder in PEFT's format.

    Raises:
        ModelError: There is none.
    """
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{folder} must hold {WEIGHTS}, but does not.")
    saved = load_file(folder / WEIGHTS)
    if _PROMPT not in saved:
        raise ModelError(
            f"{folder / WEIGHTS} must hold {_PROMPT!r}, but holds {', '.join(list(saved)[:3])}."
        )
    return saved[_PROMPT]


def width_misfit(folder: Path, width: int) -> str | None:
    """Say that virtual tokens are of another width than a model's; None where they fit.

    Raises:
        ModelError: The file is broken.
    """
    if not (folder / WEIGHTS).is_file():
        return None  # loading tells it
    header = folders.read_header(folder / WEIGHTS).get(_PROMPT)
    if header is None or header.shape[-1] == width:
        return None
    return f"its virtual tokens have {header.shape[-1]} values, and the model's {width}"


def fill(embedding: nn.Embedding, prompt: Tensor, folder: Path) -> None:
    """Put a prompt that was read into the embedding that gives it.

    Raises:
        ModelError: It is of another length or width.
    """
    import torch

    if prompt.shape != embedding.weight.shape:
        raise ModelError(
            f"the virtual tokens in {folder} must be {list(embedding.weight.shape)} values for "
            f"this model and these settings, but are {list(prompt.shape)}: use the base and the "
            "num_virtual_tokens that they were trained with."
        )
    with torch.no_grad():
        embedding.weight.copy_(prompt)
