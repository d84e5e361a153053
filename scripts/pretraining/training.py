"""The pretraining loop: AdamW, a short warm-up, a cosine, a line of progress now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raytune_glm.models.chatglm.modeling import ChatGLMForConditionalGeneration


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how fast."""

    steps: int
    learning_rate: float
    """At its highest."""
    warmup_steps: int = 100
    final_share: float = 0.02
    """Learning rate at the end, as a share of the highest."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    report_every_steps: int = 100


def rate(step: int, settings: Settings) -> float:
    """Give the learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    wave = 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)
    share = settings.final_share + (1 - settings.final_share) * wave
    return settings.learning_rate * warm * share


def train(
    model: ChatGLMForConditionalGeneration,
    batches: Iterator[tuple[Tensor, Tensor]],
    settings: Settings,
) -> None:
    """Train all of `model`, printing step, loss, tokens per second (padding included) and time."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
    model.train()
    start, losses, tokens = time.monotonic(), [], 0
    for step in range(settings.steps):
        input_ids, labels = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += input_ids.numel()
        if (step + 1) % settings.report_every_steps == 0:
            seconds = time.monotonic() - start
            print(
                f"step {step + 1}/{settings.steps}  loss {sum(losses) / len(losses):.3f}  "
                f"{tokens / seconds:.0f} tokens/s  {seconds:.0f} s",
                flush=True,
            )
            losses.clear()
