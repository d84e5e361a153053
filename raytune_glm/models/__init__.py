"""Model families: what is known of a checkpoint without torch, and how it is loaded with it.

`FAMILIES` is the table of families; a new one is its own file and a line here. Importing this
package is light: torch and transformers are imported by `load_model`, `load_tokenizer` and
`register`. Read next: `family`, then `folder`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raytune_glm.errors import ModelError
from raytune_glm.models import folder as folders
from raytune_glm.models.attention import Attention, check_attention
from raytune_glm.models.chatglm1 import ChatGLM1
from raytune_glm.models.chatglm2 import ChatGLM2
from raytune_glm.models.chatglm3 import ChatGLM3
from raytune_glm.models.chatglm4 import ChatGLM4
from raytune_glm.models.family import Encoded, Family, LinearShape, Message, ModelShape
from raytune_glm.models.generic import Generic
from raytune_glm.models.glm import Glm
from raytune_glm.models.llama import Llama

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "FAMILIES",
    "Attention",
    "Checkpoint",
    "Encoded",
    "Family",
    "LinearShape",
    "Message",
    "ModelShape",
    "Precision",
    "Quantization",
    "family_of",
    "inspect_folder",
    "load_model",
    "load_tokenizer",
    "published_config",
    "register",
    "stored_precision",
]

Precision = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["int8", "nf4"]

_STORED: dict[str, Precision] = {
    **{"F32": "fp32", "BF16": "bf16", "F16": "fp16"},
    **{"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"},
}
"""What safetensors headers and `config.json` call a precision -> what we call it."""

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (ChatGLM3(), ChatGLM2(), ChatGLM4(), ChatGLM1(), Glm(), Llama(), Generic())
}
"""Every family by name. The first one that matches a checkpoint is taken, so `generic` is last."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is known of a checkpoint without loading it."""

    folder: Path
    config: dict[str, Any]
    family: Family
    shape: ModelShape

    @property
    def stored_quantization(self) -> str | None:
        """How its own weights are quantised, such as `int4`; None where they are not."""
        return folders.stored_quantization(self.config)

    def check(
        self, *, precision: Precision, quantization: Quantization | None, attention: Attention
    ) -> None:
        """Refuse what `load_model` would refuse of these arguments, whatever the machine.

        Raises:
            ModelError: The setting, its value and what to write instead.
        """
        folders.check_quantization(self.config, quantization)
        check_attention(attention, self.family, precision)


def family_of(
    config: Mapping[str, Any],
    name: str | None = None,
    *,
    tokenizer_config: Mapping[str, Any] | None = None,
) -> Family:
    """Find the family of a checkpoint.

    Args:
        config: Its `config.json`.
        name: The family that the user named, which then decides.
        tokenizer_config: Its `tokenizer_config.json`, for families that `config.json` cannot tell
            apart.

    Raises:
        ModelError: No family has the architecture, several have it and nothing tells which it is,
            or the one that was named does not exist or does not have it.
    """
    if name is not None:
        return _named_family(config, name)
    fitting = [family for family in FAMILIES.values() if family.has_layout(config)]
    for family in fitting:
        if family.matches(config, tokenizer_config or {}):
            return family
    if fitting:
        names = " or ".join(family.name for family in fitting)
        raise ModelError(
            f"the checkpoint is {names}, whose architecture is the same, and neither "
            "`_name_or_path` in config.json nor `name_or_path` in tokenizer_config.json tells "
            f"which: set `model.family` to {names}."
        )
    raise ModelError(
        f"{_architecture(config)} is no architecture that can be loaded without running the "
        f"checkpoint's own code: use a {', '.join(list(FAMILIES)[:-1])} checkpoint or a causal "
        "language model that transformers has."
    )


def inspect_folder(
    path: str | Path,
    family_name: str | None = None,
    *,
    template: str | None = None,
    quantization: Quantization | None = None,
) -> Checkpoint:
    """Look at a checkpoint without torch: its family, its sizes, and whether its files are whole.

    Args:
        path: A folder in the published layout, or a hub id (then its small files are fetched).
        family_name: The family that the user named, if any.
        template: The instruction template that the user named, if any.
        quantization: What `load_model` is to do to the weights, so that it is refused here.

    Raises:
        ConfigError: The family has no such template.
        ModelError: It cannot be used; the message says what is missing or wrong.
    """
    folder = folders.local_folder(path, with_weights=False)
    config = folders.read_json(folder, "config.json")
    tokenizer_config = folders.read_optional_json(folder, "tokenizer_config.json")
    family = family_of(config, family_name, tokenizer_config=tokenizer_config)
    folders.check_quantization(config, quantization)
    if folder == Path(path):
        folders.weight_files(folder)
    folders.require_tokenizer(folder, family.tokenizer_files)
    if template is not None:
        family = family.with_template(template)
    shape = family.shape(config, folder)
    return Checkpoint(folder=folder, config=config, family=family.fitted(shape), shape=shape)


def load_model(
    path: str | Path,
    *,
    precision: Precision = "fp32",
    quantization: Quantization | None = None,
    device: str = "cpu",
    attention: Attention = "auto",
    random_weights: bool = False,
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode, its weights in memory once.

    Code in the checkpoint is never run. Safe to call from many processes at once.

    Args:
        path: A folder in the published layout, or a hub id. With `random_weights` only its
            `config.json` is read, and the name of a published checkpoint (`chatglm3-6b`) will do.
        precision: Of the weights, or where they are quantised, of the rest and of the arithmetic.
        quantization: Quantise the linears in the layers with bitsandbytes while loading.
        device: Where the weights go: `cpu`, `cuda`, `cuda:1`, ...
        attention: The attention function; `auto` is FlashAttention 2 on a GPU where the package is
            installed and the family and the precision can have it, else SDPA.
        random_weights: Draw the weights from torch's generator and read none: a model of true shape
            for benchmarks and memory measurements.

    Raises:
        ModelError: The checkpoint cannot be used; the message says what is missing or wrong.
    """
    from raytune_glm.models.loading import load, load_random

    if random_weights:
        config = published_config(path)
        if config is None:
            folder = folders.local_folder(path, with_weights=False)
            config = folders.read_json(folder, "config.json")
        return load_random(
            config,
            _loading_family(config),
            precision=precision,
            quantization=quantization,
            device=device,
            attention=attention,
        )
    folder = folders.local_folder(path)
    config = folders.read_json(folder, "config.json")
    return load(
        folder,
        config,
        _loading_family(config),
        precision=precision,
        quantization=quantization,
        device=device,
        attention=attention,
    )


def published_config(name: str | Path) -> dict[str, Any] | None:
    """Give the sizes of a published checkpoint by its name, such as `chatglm3-6b`, or None."""
    for family in FAMILIES.values():
        if (known := family.published.get(str(name).lower())) is not None:
            return dict(known)
    return None


def stored_precision(path: str | Path) -> Precision:
    """Tell the precision of a checkpoint's files by their largest tensor, without loading any.

    Of files whose headers cannot be read without torch, what `config.json` says; else fp16, which
    is how ChatGLM and LLaMA were published.
    """
    folder = folders.local_folder(path)
    files = folders.weight_files(folder)
    headers = [
        header
        for file in files
        if file.suffix == ".safetensors"
        for header in folders.read_header(file).values()
        if header.dtype in _STORED
    ]
    if headers:
        return _STORED[max(headers, key=lambda header: prod(header.shape)).dtype]
    config = folders.read_json(folder, "config.json")
    written = str(config.get("torch_dtype") or config.get("dtype"))
    return _STORED.get(written, "fp16")


def load_tokenizer(path: str | Path, *, family: str | None = None) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer. Safe to call from many processes at once.

    Args:
        path: A folder in the published layout, or a hub id.
        family: The family that the user named, for a checkpoint that does not tell.

    Raises:
        ModelError: The tokenizer cannot be built; the message says what is missing or wrong.
    """
    folder = folders.local_folder(path, with_weights=False)
    config = folders.read_json(folder, "config.json")
    tokenizer_config = folders.read_optional_json(folder, "tokenizer_config.json")
    found = family_of(config, family, tokenizer_config=tokenizer_config)
    folders.require_tokenizer(folder, found.tokenizer_files)
    try:
        return found.build_tokenizer(folder)
    except ModelError:
        raise
    except Exception as error:  # a damaged vocabulary raises whatever its reader likes
        raise ModelError(
            f"the tokenizer of {folder} cannot be built ({type(error).__name__}: {error}): copy "
            f"{' or '.join(found.tokenizer_files)} again."
        ) from error


def register() -> None:
    """Enter our ChatGLM code into transformers' Auto classes. May be called again."""
    from raytune_glm.models.loading import register_auto_classes

    register_auto_classes()


def _loading_family(config: Mapping[str, Any]) -> Family:
    """Give a family that can build the model: those that share a layout share the code, too."""
    fitting = (family for family in FAMILIES.values() if family.has_layout(config))
    return next(fitting, None) or family_of(config)


def _named_family(config: Mapping[str, Any], name: str) -> Family:
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(FAMILIES)}."
        raise ModelError(f"`model.family` must be a known family, but got family={name!r}: {hint}")
    family = FAMILIES[name]
    if not family.has_layout(config):
        raise ModelError(
            f"`model.family` must fit the checkpoint, but got family={name!r} for a config.json of "
            f"{_architecture(config)}: leave the setting out, or give another folder."
        )
    return family


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or ["no named class"]
    return f"model_type={config.get('model_type')!r} ({', '.join(map(str, names))})"
