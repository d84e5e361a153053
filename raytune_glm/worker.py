"""One worker of one trial: load, train, evaluate, checkpoint, report. Nothing of Ray is known here.

`train` is the loop, from top to bottom. What it talks to (`report`, `clock`) comes as arguments, so
that it runs in a notebook or a test as it does in a cluster. Read next: `engine.deepspeed`,
`evaluate`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files, memory
from raytune_glm.config import RunConfig
from raytune_glm.config.plan import batch_order, total_steps
from raytune_glm.endings import ENDING, ending_of, read_ending
from raytune_glm.logbook import Logbook

if TYPE_CHECKING:
    from raytune_glm.config.tree import ModelSettings
    from raytune_glm.data.batches import StepBatch
    from raytune_glm.engine.trainer import StepStats
    from raytune_glm.evaluate import Evaluation, Evaluator

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Takes one evaluation of the trial, plain data, from every rank, and is a barrier for them."""


def train(
    run: RunConfig,
    *,
    folder: Path,
    data_cache: Path,
    metric: str,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train one trial from its last checkpoint, or from the start, to its end.

    Every worker of the trial calls it, inside the process group that they form; a trial of one
    worker needs none. A loss that is not finite or is 0, and memory that does not suffice, end it
    with a last report whose `ending` says so, rather than with an exception; a full disk stops it
    in the same way, and patience that is over, which leaves the trial COMPLETE. Where one worker of
    several runs out of memory or disk the others wait for it: it leaves the ending in the trial's
    folder and raises, which ends them, and whoever starts the trial again finds the ending and
    reports it.

    Args:
        run: The trial.
        folder: The trial's folder, which all workers see.
        data_cache: Where encoded data is kept for all trials.
        metric: Name of the metric by which an evaluation is the best.
        report: Told of each evaluation.
        clock: Seconds of a clock that never goes back.
    """
    if (ending := read_ending(folder)) is not None:
        report({"ending": ending})
        return
    try:
        _train(run, folder, data_cache, metric, report, clock)
    except Exception as error:
        ending = ending_of(error)
        if ending is None:
            raise
        if ending["state"] == "FAILED":  # on every worker alike
            log.error("%s", error)
            report({"ending": ending})
            return
        log.exception("%s", ending["state"])
        is_one_of_several = run.run.num_workers > 1
        if is_one_of_several or ending["state"] == "INFEASIBLE":
            files.write_json(folder / ENDING, ending)
        if is_one_of_several:
            raise
        report({"ending": ending})


def _train(
    run: RunConfig,
    folder: Path,
    data_cache: Path,
    metric: str,
    report: Report,
    clock: Callable[[], float],
) -> None:
    trial = _Trial(run, folder=folder, data_cache=data_cache, metric=metric)
    book = trial.book
    for told in book.resume():
        report(told)
    with memory.limited(run.run.memory_per_worker_bytes):
        while not book.is_over:
            started = clock()
            batch, stats = trial.step(book.state.step)
            is_due = book.count(
                stats, tokens=batch.num_tokens, pads=batch.num_pads, seconds=clock() - started
            )
            if not is_due:
                continue
            started = clock()
            evaluation = trial.evaluate()
            report(book.keep(evaluation, trial.dev, seconds=clock() - started))
    if book.early_ending is not None:
        report({"ending": book.early_ending})
    trial.close()


class _Trial:
    """The parts of a trial on one worker."""

    def __init__(self, run: RunConfig, *, folder: Path, data_cache: Path, metric: str) -> None:
        from raytune_glm.data.batches import Batches
        from raytune_glm.data.collation import pad_token_id
        from raytune_glm.data.store import encode_splits
        from raytune_glm.engine import distributed
        from raytune_glm.engine.deepspeed import DeepSpeedEngine
        from raytune_glm.engine.preparing import prepare
        from raytune_glm.engine.process import choose_accelerator, spreading_weights
        from raytune_glm.evaluate import Evaluator
        from raytune_glm.retention import Retention

        device = choose_accelerator()
        family = run.model.inspect().family
        tokenizer = run.model.load_tokenizer()
        data = encode_splits(run.data, family=family, tokenizer=tokenizer, cache_dir=data_cache)
        with spreading_weights(run, device) as place:
            base = _model_settings(run).load(place)
            self._retention = Retention.of(
                base, device, run=run, rows=data.retain, family=family, tokenizer=tokenizer
            )
            _seed(run.train.seed)  # loading may have drawn
            model = run.method.apply(base, family)
            prepare(model, run.train)
        order = batch_order(run.train, data.train)
        self._engine: DeepSpeedEngine = DeepSpeedEngine(
            model, run, total_steps=total_steps(run.train, num_rows=order.num_rows)
        )
        self._batches: Batches = Batches(
            rows=data.train,
            order=order,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            micro_batch_size=run.train.micro_batch_size,
            pad_token_id=pad_token_id(tokenizer),
            joined_length=run.data.max_length if run.train.packing else None,
        )
        self.dev = data.dev
        self._evaluator: Evaluator | None = None
        if data.dev is not None:
            self._evaluator = Evaluator.of_run(
                run,
                data.dev,
                metrics={metric, *run.train.metrics},
                family=family,
                tokenizer=tokenizer,
            )
        self.book = Logbook(
            self._engine, run, folder=folder, metric=metric, order=order, row=data.train[0]
        )
        # Dropout differs between workers, as their rows do; initialisation above did not.
        _seed(run.train.seed + distributed.rank())

    def step(self, step: int) -> tuple[StepBatch, StepStats]:
        """Take optimizer step number `step`, from 0; give its rows and the figures."""
        batch = self._batches.at(step)
        stats = self._engine.train_step(
            batch.micro_batches, num_label_tokens=batch.num_label_tokens
        )
        return batch, stats

    def evaluate(self) -> Evaluation:
        """Score the model on the dev rows, where there are any."""
        from raytune_glm.evaluate import Evaluation

        if self._evaluator is None:
            return Evaluation(values={}, answers=None)
        model, device = self._engine.model, self._engine.device
        found = self._evaluator.evaluate(model, device, in_step=self._engine.needs_all_ranks)
        if self._retention is not None:
            return self._retention.measured(found, model, device)
        return found

    def close(self) -> None:
        """Let go of what the engine and the logbook hold."""
        self.book.close()
        self._engine.close()


def _model_settings(run: RunConfig) -> ModelSettings:
    """The settings to load the base by: packed rows need an attention that keeps them apart."""
    if run.train.packing and run.model.attention == "auto":
        return run.model.model_copy(update={"attention": "sdpa"})
    return run.model


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
