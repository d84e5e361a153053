"""Forgetting: how much worse than its base a tuned model has become on rows that it should retain.

Fine-tuning on a task lets go of some of what the base knew; more so with higher learning rates and
more trained weights. It is measured as the rise of the loss on general rows (`data.retain`), as the
literature on continual learning does on earlier tasks (Chaudhry et al., ECCV 2018, section 3). Read
next: `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raytune_glm.evaluate import Evaluation, Evaluator
from raytune_glm.search.quantities import FORGETTING

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raytune_glm.config import RunConfig
    from raytune_glm.models.family import Family


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Rows to retain, and how well the base knows them."""

    evaluator: Evaluator
    """Gives the loss on the rows."""
    base_loss: float
    """Of the base before any training: mean cross entropy over all label tokens."""

    @classmethod
    def of(
        cls,
        base: PreTrainedModel,
        device: torch.device,
        *,
        run: RunConfig,
        rows: Dataset | None,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Retention | None:
        """Measure a base, with no method on it. Every rank calls it.

        Args:
            base: The model, whole on each rank.
            device: Where it is.
            run: Its settings.
            rows: The encoded rows; None: nothing is measured.
            family: The model's.
            tokenizer: The family's.
        """
        if rows is None:
            return None
        evaluator = Evaluator.of_run(run, rows, metrics=(), family=family, tokenizer=tokenizer)
        values = evaluator.evaluate(base, device).values
        return cls(evaluator=evaluator, base_loss=values["eval_loss"])

    def measured(
        self, evaluation: Evaluation, model: PreTrainedModel, device: torch.device
    ) -> Evaluation:
        """The evaluation of a tuned model, with what it has forgotten. Every rank calls it."""
        loss = self.evaluator.evaluate(model, device).values["eval_loss"]
        return self.told(evaluation, loss)

    def told(self, evaluation: Evaluation, loss: float) -> Evaluation:
        """The evaluation of a model whose loss on the rows is `loss`, with its forgetting."""
        values = {**evaluation.values, FORGETTING: loss - self.base_loss}
        return replace(evaluation, values=values)
