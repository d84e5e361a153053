"""Which runs a warm host can train, which of them in one pass with others, and why one cannot.

A host has the base loaded and takes trials as they come. Those that only add to a frozen base, or
train its last layers, share its passes; others it takes through a pass of their own. What needs
DeepSpeed, several workers, or another attention has workers of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, TypeAlias

from raytune_glm.config.tree import RunConfig, SweepConfig
from raytune_glm.methods import Freeze, LoRA, PromptTuning, PTuningV2

Execution: TypeAlias = Literal["packed", "mixed", "hosted", "solo"]
"""`packed`: trials share passes on warm hosts; `hosted`: each has passes of its own there; `mixed`:
some do; `solo`: each trial has workers of its own."""

_HOSTED_TRAIN_SETTINGS = frozenset(
    {
        *("learning_rate", "learning_rates", "schedule", "warmup_ratio", "max_grad_norm"),
        *("batch_size", "micro_batch_size", "max_steps", "epochs", "seed"),
        *("weight_decay", "betas", "adam_epsilon", "gradient_checkpointing"),
        *(
            "warmup_steps",
            "group_by_length",
            "neftune_noise_alpha",
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
"""Settings of `train` that hosts honour whatever their value; others must be at their default."""


def remark_pack_size(run: RunConfig, execution: Execution, obstacle: str | None) -> Iterator[str]:
    """Tell of a size for packs where there will be none.

    Args:
        run: The settings as written.
        execution: How its trials are trained.
        obstacle: The setting that keeps trials from sharing passes, where it is not that.
    """
    if run.run.pack_size is not None and execution == "solo":
        reason = "run.execution=solo" if run.run.execution == "solo" else obstacle
        yield (
            f"run.pack_size={run.run.pack_size} has no effect, as {reason} gives each trial "
            "workers of its own: leave out either"
        )


def remark_zero_stage(
    sweep: SweepConfig, execution: Execution, off_hosts: str | None
) -> Iterator[str]:
    """Tell of a stage of ZeRO that no trial has.

    Args:
        sweep: The settings as written.
        execution: How its trials are trained.
        off_hosts: Which trials have workers of their own beside the hosts.
    """
    stage = sweep.deepspeed.zero_stage
    is_searched = "deepspeed.zero_stage" in sweep.search.space
    if (stage or is_searched) and execution != "solo" and off_hosts is None:
        value = ", which is searched," if is_searched else f"={stage}"
        yield (
            f"deepspeed.zero_stage{value} has no effect on pack hosts, which train without "
            "DeepSpeed: run.execution=solo trains with it"
        )


def packing_obstacle(run: RunConfig) -> str | None:
    """Say which setting keeps a run from sharing passes with others; None where nothing does.

    Args:
        run: A trial.

    Returns:
        The setting with its value, as `section.name=value`.
    """
    if run.train.neftune_noise_alpha is not None:
        return f"train.neftune_noise_alpha={run.train.neftune_noise_alpha:g}"
    return _method_obstacle(run) or hosting_obstacle(run)


def hosting_obstacle(run: RunConfig) -> str | None:
    """Say which setting keeps a run off warm hosts, in a pass of its own too; None: nothing does.

    Args:
        run: A trial.

    Returns:
        As `packing_obstacle`.
    """
    if run.model.precision == "fp16":
        return "model.precision=fp16"
    if run.run.num_workers > 1:
        return f"run.num_workers={run.run.num_workers}"
    if run.run.memory_per_worker_bytes is not None:
        return f"run.memory_per_worker_bytes={run.run.memory_per_worker_bytes:g}"
    return _unknown(run, "train", _HOSTED_TRAIN_SETTINGS) or _unknown(
        run, "deepspeed", {"zero_stage"}
    )


def _method_obstacle(run: RunConfig) -> str | None:
    method = run.method
    if isinstance(method, PTuningV2 | PromptTuning):
        return None
    if isinstance(method, Freeze):
        patterns = list(method.module_patterns)
        return f"method.module_patterns={patterns}" if patterns else None
    if not isinstance(method, LoRA):
        return f"method.name={method.name}"
    if method.use_dora:
        return "method.use_dora=true"
    if method.modules_to_save:
        return f"method.modules_to_save={list(method.modules_to_save)}"
    return None if method.bias == "none" else f"method.bias={method.bias}"


def _unknown(run: RunConfig, section: str, known: Collection[str]) -> str | None:
    """A setting of a section that hosts do not honour, where it is not at its default."""
    settings = getattr(run, section)
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name not in known and value != field.get_default(call_default_factory=True):
            return f"{section}.{name}={value}"
    return None
