"""`--ds_file`: what of a DeepSpeed JSON `train.py` of ChatGLM-Finetuning left standing.

It overwrote batch sizes, accumulation, and the optimizer's and the schedule's figures; what is left
is ZeRO's stage, offloading, precision and clipping, which are settings here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.table import Given, Setting

_PUBLISHED: dict[str, dict[str, Any]] = {
    name: {
        "zero_optimization": {
            "stage": stage,
            "offload_param": {"device": offload},
            "offload_optimizer": {"device": offload},
        },
        "fp16": {"enabled": True},
        "gradient_clipping": 1.0,
    }
    for name, stage, offload in (
        ("ds_zero2_no_offload.json", 2, "none"),
        ("ds_zero3_no_offload.json", 3, "none"),
        ("ds_zero3_offload.json", 3, "cpu"),
    )
}
"""The files that the tool came with (ChatGLM-Finetuning at a137ad63), for where they are not."""

DEFAULT = "ds_zero2.json"
"""The flag's default, a file that the tool never had: its ZeRO-2 file is taken in its place."""

_OVERWRITTEN = frozenset(
    {
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("optimizer", "scheduler", "steps_per_print"),
    }
)
_TRANSLATED = frozenset({"bf16", "fp16", "gradient_clipping", "zero_optimization"})
_DEFAULTS = {"prescale_gradients": False, "wall_clock_breakdown": False}


def deepspeed_settings(given: Given) -> list[Setting]:
    """The settings that the DeepSpeed file of a command makes.

    Raises:
        ConfigError: There is no such file, or it holds no JSON object.
    """
    source = given.source("ds_file")
    config = _read(given["ds_file"])
    zero = config.get("zero_optimization", {})
    offload = {
        name: device
        for name, key in (
            ("offload_optimizer", "offload_optimizer"),
            ("offload_parameters", "offload_param"),
        )
        # "auto" stands in the tool's own files, where nothing is offloaded.
        if (device := zero.get(key, {}).get("device", "none")) not in ("none", "auto")
    }
    found = {
        "model.precision": _precision(config),
        "train.max_grad_norm": config.get("gradient_clipping") or None,
        "deepspeed.zero_stage": zero.get("stage", 0),
        **{f"deepspeed.{name}": device for name, device in offload.items()},
    }
    if rest := _rest(config):
        found["deepspeed.config"] = rest
    return [Setting(path=path, value=value, source=source) for path, value in found.items()]


def _read(written: str) -> Mapping[str, Any]:
    path = Path(written)
    if not path.exists():
        name = "ds_zero2_no_offload.json" if path.name == DEFAULT else path.name
        if name in _PUBLISHED:
            return _PUBLISHED[name]
        raise ConfigError(
            f"--ds_file must be a file with a DeepSpeed configuration, but there is no {written}: "
            f"name another, or one of the tool's own, {', '.join(_PUBLISHED)}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ds_file must be JSON, but {written} is not: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"--ds_file must hold a JSON object, but {written} does not")
    return config


def _precision(config: Mapping[str, Any]) -> str:
    for name in ("fp16", "bf16"):
        if config.get(name, {}).get("enabled"):
            return name
    return "fp32"


def _rest(config: Mapping[str, Any]) -> dict[str, Any]:
    """What has no setting of its own here, to be handed to DeepSpeed as it is."""
    rest = {
        name: value
        for name, value in config.items()
        if name not in _OVERWRITTEN | _TRANSLATED and _DEFAULTS.get(name) != value
    }
    zero = config.get("zero_optimization", {})
    own = {"stage", "offload_param", "offload_optimizer"}
    # Whole weights are gathered for every checkpoint here, whatever the file says.
    own |= {"stage3_gather_16bit_weights_on_model_save"}
    if extra := {name: value for name, value in zero.items() if name not in own}:
        rest["zero_optimization"] = {"stage": zero.get("stage", 0), **extra}
    return rest
