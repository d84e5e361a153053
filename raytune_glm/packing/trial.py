"""A trial in a slot: which rows it trains on next, what it reports, what it saves.

The same settings, rows, reports and files as `raytune_glm.worker` has for a solo trial; the passes
are the pack's. Read next: `runner`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm.config import RunConfig
from raytune_glm.config.plan import batch_order
from raytune_glm.data.order import micro_batches
from raytune_glm.log import log_to_file
from raytune_glm.logbook import Logbook
from raytune_glm.packing.pack import DataRow, Pack
from raytune_glm.search.schedulers import BESIDE
from raytune_glm.worker import Report

if TYPE_CHECKING:
    from datasets import Dataset

    from raytune_glm.evaluate import Evaluation


class Rows:
    """Encoded training rows, each read from disk once for all trials of a pack."""

    def __init__(self, rows: Dataset) -> None:
        """Read from `rows` as they are asked for."""
        self.dataset = rows
        self._read: dict[int, DataRow] = {}

    def __getitem__(self, index: int) -> DataRow:
        """Give a row."""
        row = self._read.get(index)
        if row is None:
            row = self._read[index] = self.dataset[index]
        return row


class SlotTrial:
    """One trial of a pack, from its last checkpoint, or from the start, to its end."""

    def __init__(
        self,
        pack: Pack,
        number: int,
        run: RunConfig,
        *,
        rows: Rows,
        folder: Path,
        metric: str,
        report: Report,
    ) -> None:
        """Take a slot of `pack`, and go to the trial's last checkpoint, if it has one.

        Args:
            pack: Where the trial trains.
            number: Its slot.
            run: Its settings.
            rows: The training rows, which all trials of the pack share.
            folder: The trial's folder.
            metric: Name of the metric by which an evaluation is the best.
            report: Told of each evaluation.
        """
        self.run = run
        self.number = number
        self._log = logging.getLogger(f"{__name__}.{folder.name}")
        self._log_handler = log_to_file(folder / "worker.log", name=self._log.name)
        self._pack = pack
        self._rows = rows
        self._report = report
        self._order = batch_order(run.train, rows.dataset)
        self._waiting: list[Sequence[DataRow]] = []
        self._step_loss = self._step_seconds = 0.0
        self._step_rows: list[DataRow] = []
        try:
            self._slot = pack.add(number, run)
            self._book = Logbook(
                self._slot, run, folder=folder, metric=metric, order=self._order, row=rows[0]
            )
            told = self._book.resume()
        except BaseException:
            pack.remove(number)
            self._close_log()
            raise
        self._log.info("in slot %d of a pack at step %d of %d", number, self.step, self.total_steps)
        for former in told:
            report(former)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._book.state.step

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole trial."""
        return self._book.total_steps

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to train."""
        return self._book.is_over

    @property
    def is_alone(self) -> bool:
        """Whether it has passes of its own."""
        return self._slot.is_alone

    @property
    def passes_a_step(self) -> int:
        """Passes that an optimizer step takes: micro-batches of a batch."""
        train = self.run.train
        return math.ceil(train.batch_size / train.micro_batch_size)

    @property
    def passes_an_evaluation(self) -> int:
        """Passes from one evaluation to the next."""
        every = self.run.train.eval_every_steps or self.total_steps
        return self.passes_a_step * min(every, self.total_steps)

    @property
    def passes_to_evaluation(self) -> int:
        """Passes until the next evaluation."""
        of_this_step = len(self._waiting) or self.passes_a_step
        return of_this_step + (self._book.steps_to_evaluation - 1) * self.passes_a_step

    def next_rows(self) -> Sequence[DataRow]:
        """Give the rows of the next pass: a micro-batch of the step that is going on."""
        if not self._waiting:
            indices = self._order.batch_at(self.step)
            pieces = micro_batches(
                indices, rank=0, world_size=1, micro_batch_size=self.run.train.micro_batch_size
            )
            self._waiting = [[self._rows[index] for index in piece.tolist()] for piece in pieces]
            self._step_rows = [row for piece in self._waiting for row in piece]
        return self._waiting.pop(0)

    def restart_step(self) -> None:
        """Forget the passes of the step that is going on, to take it from its beginning."""
        self._waiting = []
        self._step_loss = self._step_seconds = 0.0
        self._slot.restart_step()

    @property
    def loss_weight(self) -> float:
        """What the sum of the label tokens' losses of a pass counts for: 1 / those of the step."""
        labels: int = sum(row["num_labels"] for row in self._step_rows)
        return 1 / labels

    def passed(self, loss: float, *, seconds: float) -> bool:
        """Take what a pass gave; where it was the last of its step, step.

        Args:
            loss: The weighted sum of the losses of the pass.
            seconds: This trial's part of the time that the pass took.

        Returns:
            Whether the trial is to be evaluated now.

        Raises:
            NonFiniteLossError: The step's loss or gradient is not finite.
            ZeroLossError: The step's loss is 0.
        """
        self._step_loss += loss
        self._step_seconds += seconds
        if self._waiting:
            return False
        started = time.monotonic()
        stats = self._slot.step(self._step_loss, number=self.step, total_steps=self.total_steps)
        step_seconds = self._step_seconds + time.monotonic() - started
        self._step_loss = self._step_seconds = 0.0
        pads, self._slot.pads = self._slot.pads, 0
        return self._book.count(
            stats,
            tokens=sum(row["length"] for row in self._step_rows),
            pads=pads,
            seconds=step_seconds,
        )

    def evaluated(
        self,
        evaluation: Evaluation,
        rows: Dataset,
        *,
        seconds: float,
        beside: Mapping[str, float],
    ) -> None:
        """Report an evaluation and save a checkpoint.

        Args:
            evaluation: What it found.
            rows: The rows that it was on.
            seconds: This trial's part of the time that it took.
            beside: Name of a trial that reports with it, after as many steps -> its score.

        Raises:
            NonFiniteLossError: The loss on dev is not finite.
            StorageError: The disk has no room for the checkpoint.
            NoEffectError: Training has changed nothing.
        """
        execution = "solo" if self.is_alone else "packed"
        report = self._book.keep(evaluation, rows, seconds=seconds, execution=execution)
        self._log.info("step %d: %s", self.step, evaluation.values)
        # As pairs: Ray Tune dissolves dictionaries before it asks schedulers.
        self._report({**report, BESIDE: list(beside.items())} if beside else report)

    def finish(self) -> None:
        """Free the slot of a trial that is over, and say so; say why, where steps were left."""
        self.leave()
        ending = self._book.early_ending
        self._report({"over": True} if ending is None else {"ending": ending})

    def leave(self) -> None:
        """Free the slot."""
        self._pack.remove(self.number)
        self._book.close()
        self._log.info("left the pack after step %d", self.step)
        self._close_log()

    def _close_log(self) -> None:
        self._log.removeHandler(self._log_handler)
        self._log_handler.close()
