"""The DeepSpeed engine of a trial: built from the run's settings in one place, and held to them.

DeepSpeed averages gradients over ranks. The loss here is scaled so that what comes out is the mean
over all label tokens of the step's rows, whichever rank and micro-batch they were in: the number of
workers and the micro-batch size then change nothing but rounding. Read next: `raytune_glm.worker`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raytune_glm import memory
from raytune_glm.config.deepspeed_config import deepspeed_config
from raytune_glm.config.rates import names_by_rate
from raytune_glm.engine import distributed
from raytune_glm.engine.probe import last_logits
from raytune_glm.engine.process import join_process_group, load_ops
from raytune_glm.engine.refusals import refuse_non_finite, refuse_zero
from raytune_glm.engine.schedule import learning_rate_factor
from raytune_glm.engine.trainer import StepStats
from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.config import RunConfig

Batch = Mapping[str, torch.Tensor]
"""`input_ids`, `labels` and `attention_mask` or, packed, `position_ids`, each [rows, tokens]."""


MAX_SKIPPED_STEPS = 50
"""Steps in a row that fp16's loss scaler may skip: it halves the scale each time, from 2^16, so
that after so many the gradient itself is not finite."""


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

        join_process_group()
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rates = names_by_rate(trainable, run.train)
        optimizer = _optimizer(
            [{"params": [trainable[n] for n in names], "lr": r} for r, names in rates.items()], run
        )

        def schedule(wrapped: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
            return torch.optim.lr_scheduler.LambdaLR(
                wrapped,
                lambda step: learning_rate_factor(
                    step,
                    schedule=run.train.schedule,
                    total_steps=total_steps,
                    warmup_ratio=run.train.warmup_share(total_steps),
                ),
            )

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(run), lr_scheduler=schedule
        )
        self.trainable_parameters = sum(
            # Under ZeRO-3 a rank has a part of each weight, and `ds_numel` tells of the whole.
            getattr(parameter, "ds_numel", parameter.numel())
            for parameter in trainable.values()
        )
        """How many parameters train."""
        self._run = run
        self._skipped_in_a_row = 0
        self._gathers_weights = run.deepspeed.zero_stage == 3
        self.device = torch.device(self._engine.device)
        self._rates = list(rates)
        self._assert_settings_took()

    def _assert_settings_took(self) -> None:
        engine, run = self._engine, self._run
        for what, taken, meant in (
            ("batch", engine.train_batch_size(), run.train.batch_size),
            ("accumulation", engine.gradient_accumulation_steps(), run.gradient_accumulation_steps),
            ("clipping", engine.gradient_clipping(), run.train.max_grad_norm or 0.0),
            ("learning rates", engine.lr_scheduler.base_lrs, self._rates),
        ):
            assert taken == meant, f"DeepSpeed changed the {what} from {meant} to {taken}"

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
        refuse_non_finite("loss", mean_loss, step, self._run)
        refuse_zero(mean_loss, step, self._run)
        learning_rate = self._engine.get_lr()[0]
        plain_norm = self._plain_grad_norm()
        self._engine.step()
        skipped = not self._engine.was_step_applied()
        grad_norm = plain_norm or float(self._engine.get_global_grad_norm() or 0.0)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        scaler_works = self._run.model.precision == "fp16"
        if not scaler_works or self._skipped_in_a_row > MAX_SKIPPED_STEPS:
            # Without a scaler DeepSpeed skips a step for one reason alone.
            norm = math.inf if skipped else grad_norm
            refuse_non_finite("gradient norm", norm, step, self._run)
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

    @property
    def applied_steps(self) -> int:
        """Optimizer steps that moved the weights: all but those that fp16's scaler skipped."""
        return int(self._engine.global_steps - self._engine.skipped_steps)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch's last tokens, in fp32 on the CPU; every rank calls it.

        Returns:
            Shape [rows, at most 16 tokens, vocabulary]; labels and dropout play no part.
        """
        return last_logits(self.model, batch, self.device)

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
        self._set_optimizer_settings()

    def _set_optimizer_settings(self) -> None:
        """Train on with this trial's settings, where the state is of a trial with others."""
        train, schedule = self._run.train, self._engine.lr_scheduler
        schedule.base_lrs = self._rates
        groups = self._engine.optimizer.param_groups
        for group, rate, shape in zip(groups, self._rates, schedule.lr_lambdas, strict=True):
            group.update(
                initial_lr=rate,
                lr=rate * shape(schedule.last_epoch),
                betas=train.betas,
                eps=train.adam_epsilon,
                weight_decay=train.weight_decay,
            )

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
        """Largest memory of any rank so far; see `memory.peak_bytes`."""
        own = memory.peak_bytes(self.device)
        return int(distributed.max_over_ranks(float(own), self.device))

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers."""
        self._engine.destroy()


def _optimizer(groups: list[dict[str, Any]], run: RunConfig) -> torch.optim.Optimizer:
    """AdamW over groups of parameters; DeepSpeed's own where its state is in the host's memory.

    Raises:
        ResourceError: This host cannot compile what the offload needs.
    """
    load_ops(run.deepspeed.compiled_ops)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    kind = torch.optim.AdamW if run.deepspeed.offload_optimizer == "none" else DeepSpeedCPUAdam
    optimizer: torch.optim.Optimizer = kind(
        groups,
        betas=run.train.betas,
        eps=run.train.adam_epsilon,
        weight_decay=run.train.weight_decay,
    )
    return optimizer
