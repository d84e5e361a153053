"""A base model with its data, loaded once, and the pack of trials on it. Read next: `pack`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from raytune_glm.config import RunConfig
from raytune_glm.data.store import EncodedData, encode_splits
from raytune_glm.evaluate import Evaluator
from raytune_glm.packing.pack import Pack
from raytune_glm.packing.slot import twin
from raytune_glm.packing.trial import Rows
from raytune_glm.retention import Retention


class Base:
    """A base model with its data, and the pack of trials on it."""

    def __init__(self, run: RunConfig, data_cache: Path, device: torch.device) -> None:
        """Load what a run names."""
        self.family = run.model.inspect().family
        self.tokenizer = run.model.load_tokenizer()
        # The model first: the command may still be encoding the data for all hosts.
        self.pack = Pack(run.model.load(str(device)), self.family)
        self.data: EncodedData = encode_splits(
            run.data, family=self.family, tokenizer=self.tokenizer, cache_dir=data_cache
        )
        self.rows = Rows(self.data.train)
        self.retention = Retention.of(
            twin(self.pack.base),
            device,
            run=run,
            rows=self.data.retain,
            family=self.family,
            tokenizer=self.tokenizer,
        )

    def evaluator(self, run: RunConfig, metric: str) -> Evaluator:
        """What scores a trial of this base on dev."""
        assert self.data.dev is not None, "the configuration has dev rows"
        return Evaluator.of_run(
            run,
            self.data.dev,
            metrics={metric, *run.train.metrics},
            family=self.family,
            tokenizer=self.tokenizer,
        )

    @property
    def row_flop(self) -> float:
        """What a forward pass computes on a train row of mean length: 2 a parameter and token."""
        num_parameters = sum(p.numel() for p in self.pack.base.parameters())
        return 2.0 * num_parameters * float(np.mean(self.data.train["length"]))


def base_key(run: RunConfig) -> str:
    """What trials must share to be in one pack: base, precision, quantization and data."""
    return run.model.model_dump_json() + run.data.model_dump_json()
