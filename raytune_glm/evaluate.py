"""Evaluation on held-out rows, spread over workers: the loss, and metrics of generated answers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raytune_glm.answering import Sampling, Speaker
from raytune_glm.data.collation import collate, pad_token_id
from raytune_glm.engine import distributed
from raytune_glm.metrics import METRICS, AnswerMetric, weighted_mean
from raytune_glm.models.family import IGNORED_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raytune_glm.config import RunConfig
    from raytune_glm.models.family import Family


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation measured."""

    values: dict[str, float]
    """Metric -> value over all rows, the same on every rank."""
    answers: list[str] | None
    """The generated answer of every row, in the rows' order; none where no metric asked for one."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Held-out rows and how to score a model on them."""

    rows: Dataset
    """Encoded rows: `input_ids`, `labels`, `num_labels`, `prompt_ids`, `references`."""
    metrics: Sequence[str]
    """Names in `METRICS`; `eval_loss` is always measured."""
    family: Family
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    """Rows in one forward pass of one worker."""
    max_new_tokens: int
    """Longest generated answer."""

    @classmethod
    def of_run(
        cls,
        run: RunConfig,
        rows: Dataset,
        *,
        metrics: Collection[str],
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Evaluator:
        """Score as a run's settings say, by `eval_loss` and `metrics`."""
        return cls(
            rows=rows,
            metrics=sorted({"eval_loss", *metrics}),
            family=family,
            tokenizer=tokenizer,
            batch_size=run.train.eval_batch_size,
            max_new_tokens=run.train.max_new_tokens,
        )

    def evaluate(
        self, model: PreTrainedModel, device: torch.device, *, in_step: bool = False
    ) -> Evaluation:
        """Score a model. Every rank calls it and takes its share of the rows.

        Args:
            model: The model, in any mode; it is given back in training mode if it was in it.
            device: Where it is.
            in_step: Whether every rank must make as many forward passes as the others (ZeRO-3).

        Returns:
            The values, combined over the ranks.
        """
        values = {"eval_loss": self.loss(model, device, in_step=in_step)}
        return self.score_answers(model, device, values=values, in_step=in_step)

    def loss(self, model: PreTrainedModel, device: torch.device, *, in_step: bool = False) -> float:
        """Mean cross entropy over all label tokens of all rows, none counted twice.

        Every rank calls it; see `evaluate`.
        """
        with _evaluating(model):
            return self._loss(model, device, in_step=in_step)

    def _loss(self, model: PreTrainedModel, device: torch.device, *, in_step: bool) -> float:
        total, label_tokens = 0.0, 0.0
        for indices, counts in self._own_batches("length", in_step=in_step):
            rows = [self.rows[i] for i in indices]
            batch = collate(rows, pad_token_id=pad_token_id(self.tokenizer))
            label_count = int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())
            on_device = {name: tensor.to(device) for name, tensor in batch.items()}
            loss = model(**on_device, use_cache=False).loss
            if counts and label_count > 0:
                total += float(loss) * label_count
                label_tokens += label_count
        total, label_tokens = distributed.sum_over_ranks([total, label_tokens], device)
        return weighted_mean(total, label_tokens)

    def score_answers(
        self,
        model: PreTrainedModel,
        device: torch.device,
        *,
        values: dict[str, float],
        in_step: bool = False,
    ) -> Evaluation:
        """Add the metrics of generated answers, if there are any, to the values found so far."""
        if not self.needs_answers:
            return Evaluation(values=values, answers=None)
        with _evaluating(model):
            answers = self._answers(model, device, in_step=in_step)
        return self.judge(answers, values=values)

    @property
    def needs_answers(self) -> bool:
        """Whether some metric is one of generated answers."""
        return bool(self._answer_metrics())

    def _answer_metrics(self) -> list[AnswerMetric]:
        found = map(METRICS.__getitem__, self.metrics)
        return [metric for metric in found if isinstance(metric, AnswerMetric)]

    def judge(self, answers: list[str], *, values: dict[str, float]) -> Evaluation:
        """Add the metrics of answers, one a row in the rows' order, to the values found so far."""
        references = [tuple(references) for references in self.rows["references"]]
        judged = dict(values)
        for metric in self._answer_metrics():
            scores = metric.score(answers, references)
            judged[metric.name] = weighted_mean(sum(scores), len(scores))
        return Evaluation(values=judged, answers=answers)

    def prompts(self, rows: Sequence[int]) -> list[list[int]]:
        """The ids to generate from, of the rows of these numbers."""
        return [self.rows[row]["prompt_ids"] for row in rows]

    def by_prompt_length(self) -> list[int]:
        """Row numbers, the shortest prompt first."""
        lengths = [len(ids) for ids in self.rows["prompt_ids"]]
        return sorted(range(len(lengths)), key=lengths.__getitem__)

    def _answers(self, model: PreTrainedModel, device: torch.device, *, in_step: bool) -> list[str]:
        """Greedy answers of all rows, in their order."""
        speaker = Speaker(model=model, family=self.family, tokenizer=self.tokenizer, device=device)
        greedy = Sampling(max_new_tokens=self.max_new_tokens)
        found: list[tuple[int, str]] = []
        for indices, counts in self._own_batches("prompt_ids", in_step=in_step):
            answers = speaker.generate(self.prompts(indices), greedy, synced_gpus=in_step)
            if counts:
                found += zip(indices, map(speaker.text, answers), strict=True)
        texts = dict(distributed.gather_lists(found))
        return [texts[index] for index in range(len(self.rows))]

    def _own_batches(self, by: str, *, in_step: bool) -> list[tuple[list[int], bool]]:
        """This rank's rows in batches of like length, so that little of a batch is padding.

        Where ranks must keep in step, one that has fewer batches than another gets further ones
        that do not count.

        Returns:
            Row numbers of a batch, and whether it counts.
        """
        sizes = [value if isinstance(value, int) else len(value) for value in self.rows[by]]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        rank, world_size = distributed.rank(), distributed.world_size()
        own = order[rank::world_size]
        batches = [
            (own[i : i + self.batch_size], True) for i in range(0, len(own), self.batch_size)
        ]
        if in_step:
            most = math.ceil(math.ceil(len(order) / world_size) / self.batch_size)
            batches += [(order[:1], False)] * (most - len(batches))
        return batches


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
