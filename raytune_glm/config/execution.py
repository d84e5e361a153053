"""Which runs can train in a pack beside others, and why one cannot."""

from __future__ import annotations

from raytune_glm.config.tree import RunConfig
from raytune_glm.methods import LoRA, PromptTuning, PTuningV2

_PACKED_TRAIN_SETTINGS = frozenset(
    {
        *("learning_rate", "learning_rates", "schedule", "warmup_ratio", "max_grad_norm"),
        *("batch_size", "micro_batch_size", "max_steps", "epochs", "seed"),
        *("weight_decay", "betas", "adam_epsilon", "gradient_checkpointing"),
        *(
            "warmup_steps",
            "group_by_length",
            "patience",
            "save_total_limit",
            "eval_every_steps",
            "eval_batch_size",
            "metrics",
            "max_new_tokens",
            "log_every_steps",
        ),
    }
)
"""Settings of `train` that packs honour whatever their value; others must be at their default."""


def packing_obstacle(run: RunConfig) -> str | None:
    """Say which setting keeps a run from training in a pack; None where nothing does.

    Args:
        run: A trial.

    Returns:
        The setting with its value, as `section.name=value`.
    """
    found = _method_obstacle(run) or _settings_obstacle(run)
    if found is None and run.run.num_workers > 1:
        return f"run.num_workers={run.run.num_workers}"
    if found is None and run.run.memory_per_worker_bytes is not None:
        return f"run.memory_per_worker_bytes={run.run.memory_per_worker_bytes:g}"
    return found


def _method_obstacle(run: RunConfig) -> str | None:
    method = run.method
    if isinstance(method, PTuningV2 | PromptTuning):
        return None
    if not isinstance(method, LoRA):
        return f"method.name={method.name}"
    if method.use_dora:
        return "method.use_dora=true"
    if method.modules_to_save:
        return f"method.modules_to_save={list(method.modules_to_save)}"
    return None if method.bias == "none" else f"method.bias={method.bias}"


def _settings_obstacle(run: RunConfig) -> str | None:
    if run.model.precision == "fp16":
        return "model.precision=fp16"
    for section, names in (("train", _PACKED_TRAIN_SETTINGS), ("deepspeed", {"zero_stage"})):
        settings = getattr(run, section)
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if name not in names and value != field.get_default(call_default_factory=True):
                return f"{section}.{name}={value}"
    return None
