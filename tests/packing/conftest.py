"""The tiny models of the methods' tests, and solo training in plain PyTorch to hold packs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from raytune_glm.config import RunConfig
from raytune_glm.data.collation import collate
from raytune_glm.packing.pack import DataRow, Pack
from tests.methods.conftest import ARCHITECTURES, CONFIGS, Base, base, write_bases

__all__ = ["Base", "Packed", "base", "bases", "run_of", "solo", "steps_of"]

STEPS = 40
_NARROW: dict[str, dict[str, int]] = {
    "chatglm": {"hidden_size": 32, "inner_hidden_size": 48},
    "chatglm3": {"hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8},
    "llama": {"hidden_size": 32, "intermediate_size": 48, "head_dim": 12},
    "qwen2": {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8},
}
"""Half as wide as the methods' bases. AdamW turns the sign of a gradient that is nothing but
rounding into a whole step, and the wider the base, the more such gradients in 40 steps: on the
methods' bases one weight of 320 ended 1.4e-5 from its solo run, on these none more than 1e-5."""
GMASK_SOP = [81, 84]
"""What ends a context in the tiny ChatGLM-6B; ordinary ids to the others."""


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """A checkpoint of each code that runs a model. Read-only."""
    configs = {name: {**CONFIGS[name], **_NARROW[name]} for name in ARCHITECTURES}
    return write_bases(configs, tmp_path_factory)


def run_of(base: Base, method: dict[str, Any], **train: Any) -> RunConfig:
    """A run on a tiny model; the rows come from `steps_of`."""
    settings = {"max_steps": STEPS, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 3e-3}
    return RunConfig.model_validate(
        {
            "model": {"path": str(base.folder)},
            "data": {"train": "rows.jsonl"},
            "method": method,
            "train": {**settings, **train},
        }
    )


def steps_of(run: RunConfig, steps: int = STEPS) -> list[list[list[DataRow]]]:
    """Rows for each micro-batch of each step, of random ids and lengths, drawn by its seed."""
    random = np.random.Generator(np.random.PCG64(run.train.seed))

    def row() -> DataRow:
        source = random.integers(5, 79, random.integers(2, 9)).tolist() + GMASK_SOP
        answer = random.integers(5, 79, random.integers(2, 9)).tolist()
        return {"input_ids": source + answer, "labels": [-100] * len(source) + answer}

    pool = [row() for _ in range(6)]
    sizes = [run.train.micro_batch_size] * run.gradient_accumulation_steps
    return [
        [[pool[i] for i in random.integers(0, len(pool), size)] for size in sizes]
        for _ in range(steps)
    ]


def num_labels(rows: Sequence[DataRow]) -> int:
    """Label tokens of rows; none is at a row's beginning."""
    return sum(label != -100 for row in rows for label in row["labels"])


def solo(base: Base, run: RunConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train alone with PyTorch's own AdamW on padded batches; give the losses and the weights."""
    model: Any = base.load()
    torch.manual_seed(run.train.seed)
    model = run.method.apply(model, base.family)
    model.train()
    if run.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(),
        betas=run.train.betas,
        eps=run.train.adam_epsilon,
        weight_decay=run.train.weight_decay,
    )
    torch.manual_seed(run.train.seed)
    losses = []
    warmup = int(np.ceil(0.1 * STEPS))
    for step, passes in enumerate(steps_of(run)):
        labels = sum(num_labels(rows) for rows in passes)
        total = 0.0
        for rows in passes:
            batch = collate(rows, pad_token_id=0)
            loss = model(**batch, use_cache=False).loss * (num_labels(rows) / labels)
            loss.backward()
            total += loss.item()
        if run.train.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained.values(), run.train.max_grad_norm)
        factor = (step + 1) / warmup if step < warmup else 1 - (step - warmup) / (STEPS - warmup)
        for group in optimizer.param_groups:
            group["lr"] = run.train.learning_rate * factor
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, {name: p.detach().clone() for name, p in trained.items()}


@dataclass
class Packed:
    """A trial in a pack, whose passes the test makes itself."""

    pack: Pack
    number: int
    run: RunConfig

    def __post_init__(self) -> None:
        self.slot = self.pack.add(self.number, self.run)
        self.losses: list[float] = []
        self._passes = self._all_passes()
        self._loss = 0.0
        self.is_over = False
        self._next = next(self._passes)

    def _all_passes(self) -> Iterator[tuple[list[DataRow], float, bool]]:
        for passes in steps_of(self.run):
            weight = 1 / sum(num_labels(rows) for rows in passes)
            for number, rows in enumerate(passes, start=1):
                yield rows, weight, number == len(passes)

    @property
    def rows(self) -> list[DataRow]:
        return self._next[0]

    @property
    def weight(self) -> float:
        return self._next[1]

    def passed(self, loss: float) -> None:
        self._loss += loss
        if self._next[2]:
            self.slot.step(self._loss, number=len(self.losses), total_steps=STEPS)
            self.losses.append(self._loss)
            self._loss = 0.0
        following = next(self._passes, None)
        if following is None:
            self.is_over = True
        else:
            self._next = following


def train_pass(pack: Pack, trials: Sequence[Packed]) -> None:
    """One pass of these trials together."""
    losses = pack.train_pass(
        {trial.number: trial.rows for trial in trials},
        loss_weights={trial.number: trial.weight for trial in trials},
    )
    for trial in trials:
        trial.passed(losses[trial.number])
