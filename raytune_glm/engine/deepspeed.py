"""The DeepSpeed engine of a trial: built from the run's settings in one place, and held to them.

DeepSpeed averages gradients over ranks. The loss here is scaled so that what comes out is the mean
over all label tokens of the step's rows, whichever rank and micro-batch they were in: the number of
workers and the micro-batch size then change nothing but rounding. Read next: `raytune_glm.worker`.
"""

from __future__ import annotations

import logging
import math
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from raytune_glm.config.rates import names_by_rate
from raytune_glm.engine import distributed
from raytune_glm.engine.schedule import learning_rate_factor
from raytune_glm.errors import NonFiniteLossError, ZeroLossError
from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.config import RunConfig

Batch = Mapping[str, torch.Tensor]
"""`input_ids`, `labels` and `attention_mask` or, packed, `position_ids`, each [rows, tokens]."""


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """What one optimizer step did."""

    loss: float
    """Mean cross entropy over the label tokens of the whole step, all ranks."""
    grad_norm: float | None
    """2-norm of the step's gradient before clipping, all ranks; none where it overflowed."""
    learning_rate: float
    """The rate that the step was taken with; with several, the one of `train.learning_rate`."""
    skipped: bool
    """True where fp16's loss scaler found an overflow and left the weights as they were."""


def choose_accelerator() -> torch.device:
    """Pick this process's device, and tell DeepSpeed, which would look for one itself at import."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return torch.device("cpu")


MAX_SKIPPED_STEPS = 50
"""Steps in a row that fp16's loss scaler may skip: it halves the scale each time, from 2^16, so
that after so many the gradient itself is not finite."""


def deepspeed_config(run: RunConfig) -> dict[str, Any]:
    """DeepSpeed's configuration of a run: every figure in it comes from the run's settings.

    fp16 runs at stage 1 at least: DeepSpeed 0.19 divides the gradient by the loss scale at stage 0
    (`FP16_UnfusedOptimizer`) although `backward` has not multiplied the loss by it.
    """
    stage = run.deepspeed.zero_stage
    return {
        "train_batch_size": run.train.batch_size,
        "train_micro_batch_size_per_gpu": run.train.micro_batch_size,
        "gradient_accumulation_steps": run.gradient_accumulation_steps,
        "gradient_clipping": run.train.max_grad_norm or 0.0,
        "zero_optimization": {"stage": max(1, stage) if run.model.precision == "fp16" else stage},
        "bf16": {"enabled": run.model.precision == "bf16"},
        "fp16": {"enabled": run.model.precision == "fp16"},
        "steps_per_print": 10**9,
    }


class DeepSpeedEngine:
    """One trial's model, optimizer and schedule on this rank."""

    def __init__(self, model: PreTrainedModel, run: RunConfig, *, total_steps: int) -> None:
        """Hand `model`, with its method on it, to DeepSpeed.

        Args:
            model: What trains has `requires_grad`; optimizer state is made for that alone.
            run: The trial's settings.
            total_steps: Optimizer steps of the whole trial, which the schedule ends at.
        """
        import deepspeed

        _join_process_group()
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rates = names_by_rate(trainable, run.train)
        optimizer = torch.optim.AdamW(
            [{"params": [trainable[n] for n in names], "lr": r} for r, names in rates.items()],
            betas=run.train.betas,
            eps=run.train.adam_epsilon,
            weight_decay=run.train.weight_decay,
        )

        def schedule(wrapped: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
            return torch.optim.lr_scheduler.LambdaLR(
                wrapped,
                lambda step: learning_rate_factor(
                    step,
                    schedule=run.train.schedule,
                    total_steps=total_steps,
                    warmup_ratio=run.train.warmup_ratio,
                ),
            )

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(run), lr_scheduler=schedule
        )
        self._run = run
        self._skipped_in_a_row = 0
        self._gathers_weights = run.deepspeed.zero_stage == 3
        self.device = torch.device(self._engine.device)
        self._assert_settings_took(list(rates))

    def _assert_settings_took(self, rates: list[float]) -> None:
        engine, train = self._engine, self._run.train
        assert engine.train_batch_size() == train.batch_size, "DeepSpeed changed the batch size"
        assert engine.gradient_accumulation_steps() == self._run.gradient_accumulation_steps, (
            "DeepSpeed changed the accumulation"
        )
        peaks = engine.lr_scheduler.base_lrs
        assert peaks == rates, f"DeepSpeed changed the learning rates {rates} to {peaks}"

    @property
    def model(self) -> PreTrainedModel:
        """The model, with its method on it."""
        module: PreTrainedModel = self._engine.module
        return module

    @property
    def needs_all_ranks(self) -> bool:
        """True where every rank must make as many forward passes as the others."""
        return self._gathers_weights and distributed.world_size() > 1

    def train_step(self, micro_batches: Sequence[Batch], *, num_label_tokens: int) -> StepStats:
        """Take one optimizer step.

        Args:
            micro_batches: This rank's part of the step's rows, one forward pass each; all ranks
                have the same number of them.
            num_label_tokens: Label tokens of the whole step's rows, all ranks; what the loss is
                divided by.

        Raises:
            NonFiniteLossError: The loss or the gradient is NaN or infinite; on every rank, before
                the optimizer's step where it is the loss.
            ZeroLossError: The loss is 0; on every rank, before the optimizer's step.
        """
        self._engine.train()
        step = self._engine.global_steps + 1
        scale = distributed.world_size() / num_label_tokens
        own_sum = 0.0
        for number, batch in enumerate(micro_batches, start=1):
            # Packed rows are fewer than the accumulation that DeepSpeed would count to.
            self._engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
            label_tokens = int((on_device["labels"][:, 1:] != IGNORED_LABEL).sum())
            loss = self._engine(**on_device, use_cache=False).loss
            self._engine.backward(loss * (label_tokens * scale), scale_wrt_gas=False)
            own_sum += float(loss.detach()) * label_tokens
        [total] = distributed.sum_over_ranks([own_sum], self.device)
        mean_loss = total / num_label_tokens
        self._refuse_non_finite("loss", mean_loss, step)
        self._refuse_zero(mean_loss, step)
        learning_rate = self._engine.get_lr()[0]
        plain_norm = self._plain_grad_norm()
        self._engine.step()
        skipped = not self._engine.was_step_applied()
        grad_norm = plain_norm or float(self._engine.get_global_grad_norm() or 0.0)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        scaler_works = self._run.model.precision == "fp16"
        if not scaler_works or self._skipped_in_a_row > MAX_SKIPPED_STEPS:
            # Without a scaler DeepSpeed skips a step for one reason alone.
            self._refuse_non_finite("gradient norm", math.inf if skipped else grad_norm, step)
        return StepStats(
            loss=mean_loss,
            grad_norm=grad_norm if math.isfinite(grad_norm) else None,
            learning_rate=learning_rate,
            skipped=skipped,
        )

    def _plain_grad_norm(self) -> float | None:
        """The gradient's norm where DeepSpeed keeps none: plain fp32 weights without ZeRO."""
        if self._run.deepspeed.zero_stage > 0 or self._run.model.precision != "fp32":
            return None
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _refuse_non_finite(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        train = self._run.train
        likely = (
            "model.precision fp16 overflowed (use bf16 or fp32), or train.learning_rate"
            if self._run.model.precision == "fp16"
            else "train.learning_rate"
        )
        raise NonFiniteLossError(
            f"the {what} became {value} at step {step}; the likely cause "
            f"is that {likely}={train.learning_rate:g} is too high: lower it, lengthen "
            f"train.warmup_ratio={train.warmup_ratio:g}, or set train.max_grad_norm"
        )

    def _refuse_zero(self, loss: float, step: int) -> None:
        if loss != 0.0:
            return
        model = self._run.model
        stored = f" and model.quantization={model.quantization}" if model.quantization else ""
        raise ZeroLossError(
            f"the loss became exactly 0 at step {step}, so that nothing is learnt any more; the "
            f"likely cause is arithmetic that broke in model.precision={model.precision}{stored} "
            "(use bf16 or fp32, and no quantization), or rows whose answers the model has learnt "
            "by heart (fewer steps, a lower train.learning_rate)"
        )

    def save_state(self, folder: Path, tag: str) -> None:
        """Write what resuming needs (trained weights, optimizer, schedule) to `folder / tag`.

        Every rank calls it and writes its own part; frozen weights are left out.
        """
        self._engine.save_checkpoint(
            str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )

    def load_state(self, folder: Path, tag: str) -> None:
        """Read what `save_state` wrote, with the same number of workers and ZeRO stage."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
        if path is None:
            raise RuntimeError(f"DeepSpeed cannot read the checkpoint {folder / tag}")

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """Copy what trains to the CPU, by parameter name; all ranks call it, rank 0 gets it all."""
        import deepspeed

        weights: dict[str, torch.Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._gathers_weights):
                if distributed.rank() == 0:
                    weights[name] = parameter.detach().cpu().clone()
        return weights

    def peak_memory_bytes(self) -> int:
        """Largest memory of any rank so far: of the device's allocator, or on a CPU the process."""
        if self.device.type == "cuda":
            own = torch.cuda.max_memory_allocated(self.device)
        else:
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        return int(distributed.max_over_ranks(float(own), self.device))

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        self._engine.destroy()


def _join_process_group() -> None:
    """Use the process group that Ray Train made, or make one of a single process."""
    import deepspeed

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not dist.is_initialized() and "MASTER_ADDR" not in os.environ:
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in __all__
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
    # DeepSpeed would compile a shared-memory all-reduce for CPUs here, under a lock file that a
    # killed process leaves behind: every later trial here would wait for it. Gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
