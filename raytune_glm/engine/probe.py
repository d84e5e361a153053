"""Whether training has changed what a model says: an adapter that changes nothing is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from raytune_glm.errors import NoEffectError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raytune_glm.engine.trainer import Trainer


class Probe:
    """One batch, and the untrained model's logits on it."""

    def __init__(self, engine: Trainer, batch: Mapping[str, torch.Tensor]) -> None:
        """Ask the model of `engine`, which has not trained yet; every rank does."""
        self._batch = batch
        self._before = engine.logits(batch)

    def require_change(self, engine: Trainer) -> None:
        """Refuse a model that says exactly what it said before it trained; every rank asks.

        A matrix of zeros is what LoRA begins with, what a lost gradient leaves, and what a rate
        too small for the precision amounts to.

        Raises:
            NoEffectError: Not one logit has changed, though a step was applied.
        """
        if engine.applied_steps > 0 and torch.equal(engine.logits(self._batch), self._before):
            raise NoEffectError(
                f"training must change the model's answers, but after {engine.applied_steps} "
                "steps every logit of a row that it trains on is what it was before: raise "
                "train.learning_rate, or train what has an effect"
            )


def last_logits(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Give the logits of a batch's last tokens, in fp32 on the CPU.

    Returns:
        Shape [rows, at most 16 tokens, vocabulary]; labels and dropout play no part.
    """
    was_training = model.training
    model.eval()
    inputs = {name: t.to(device) for name, t in batch.items() if name != "labels"}
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    model.train(was_training)
    return logits[:, -16:].float().cpu()
