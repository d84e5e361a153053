"""A trial in a slot: which rows it trains on next, what it reports, what it saves.

The same settings, rows, reports and files as `raytune_glm.worker` has for a solo trial; the passes
are the pack's. Read next: `runner`.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raytune_glm import files
from raytune_glm.checkpoint import Checkpoints
from raytune_glm.config import RunConfig
from raytune_glm.config.plan import is_evaluated, total_steps
from raytune_glm.data.collation import collate
from raytune_glm.data.order import BatchOrder, micro_batches
from raytune_glm.engine.deepspeed import StepStats
from raytune_glm.engine.probe import Probe
from raytune_glm.errors import NonFiniteLossError
from raytune_glm.log import log_to_file
from raytune_glm.metrics import METRICS, preference
from raytune_glm.packing.pack import DataRow, Pack
from raytune_glm.worker import LoopState, Report, drop_lines_after, track, write_predictions

if TYPE_CHECKING:
    from datasets import Dataset

    from raytune_glm.evaluate import Evaluation


class Rows:
    """Encoded training rows, each read from disk once for all trials of a pack."""

    def __init__(self, rows: Dataset) -> None:
        """Read from `rows` as they are asked for."""
        self._rows = rows
        self._read: dict[int, DataRow] = {}

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> DataRow:
        """Give a row: `input_ids`, `labels`, `num_labels`, `length`."""
        row = self._read.get(index)
        if row is None:
            row = self._read[index] = self._rows[index]
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
        self._folder = folder
        self._metric = METRICS[metric]
        self._report = report
        self._order = BatchOrder(
            num_rows=len(rows), batch_size=run.train.batch_size, seed=run.train.seed
        )
        self.total_steps = total_steps(run.train, num_rows=len(rows))
        self._slot = pack.add(number, run)
        self._checkpoints = Checkpoints(
            folder / "checkpoint",
            run.method,
            save_total_limit=run.train.save_total_limit,
            probe=Probe(self._slot, collate([rows[0]], pad_token_id=0)),
        )
        saved = self._checkpoints.resume(self._slot)
        self.state = LoopState() if saved is None else LoopState(**saved)
        drop_lines_after(folder / "train.jsonl", self.state.step)
        self._trackers = track(run, folder)
        self._trackers.log_again(files.read_lines(folder / "train.jsonl"), self.state.reports)
        self._waiting: list[Sequence[DataRow]] = []
        self._step_loss = self._step_seconds = 0.0
        self._step_rows: list[DataRow] = []
        self._stats: StepStats | None = None
        self._log.info(
            "in slot %d of a pack at step %d of %d", number, self.state.step, self.total_steps
        )
        for told in self.state.reports:
            report(told)
        if self.state.first_step_at is None:
            self.state.first_step_at = time.time()

    @property
    def is_over(self) -> bool:
        """Whether all steps are done."""
        return self.state.step >= self.total_steps

    def next_rows(self) -> Sequence[DataRow]:
        """Give the rows of the next pass: a micro-batch of the step that is going on."""
        if not self._waiting:
            indices = self._order.batch_at(self.state.step)
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
        return 1 / sum(_count(row, "num_labels") for row in self._step_rows)

    def passed(self, loss: float, *, seconds: float) -> bool:
        """Take what a pass gave; where it was the last of its step, step.

        Args:
            loss: The weighted sum of the losses of the pass.
            seconds: This trial's part of the time that the pass took.

        Returns:
            Whether the trial is to be evaluated now.

        Raises:
            NonFiniteLossError: The step's loss or gradient is not finite.
        """
        self._step_loss += loss
        self._step_seconds += seconds
        if self._waiting:
            return False
        started = time.monotonic()
        done = self._slot.step(
            self._step_loss, number=self.state.step, total_steps=self.total_steps
        )
        self._stats = StepStats(
            loss=done.loss,
            grad_norm=done.grad_norm,
            learning_rate=done.learning_rate,
            skipped=False,
        )
        self.state.count(
            self._stats,
            tokens=sum(_count(row, "length") for row in self._step_rows),
            seconds=self._step_seconds + time.monotonic() - started,
        )
        self._step_loss = self._step_seconds = 0.0
        step = self.state.step
        if step % self.run.train.log_every_steps == 0 or step == self.total_steps:
            line = {"step": step, **asdict(self._stats)}
            files.append_line(self._folder / "train.jsonl", line)
            self._trackers.log_step(line)
        return is_evaluated(self.run, step, self.total_steps)

    def evaluated(self, evaluation: Evaluation, rows: Dataset, *, seconds: float) -> None:
        """Report an evaluation and save a checkpoint.

        Args:
            evaluation: What it found.
            rows: The rows that it was on.
            seconds: This trial's part of the time that it took.

        Raises:
            NonFiniteLossError: The loss on dev is not finite.
        """
        loss = evaluation.values["eval_loss"]
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"eval_loss became {loss}; the likely cause is that train.learning_rate="
                f"{self.run.train.learning_rate:g} is too high: lower it"
            )
        state = self.state
        state.seconds += seconds
        state.reports.append(self._report_of(evaluation))
        self._trackers.log_evaluation(state.reports[-1])
        value = preference(evaluation.values, self._metric)
        is_best = state.best is None or value > state.best
        if is_best:
            state.best = value
            if evaluation.answers is not None:
                write_predictions(self._folder, rows, evaluation.answers)
        self._checkpoints.save(self._slot, step=state.step, loop=asdict(state), best=is_best)
        self._log.info("step %d: %s", state.step, evaluation.values)
        self._report(state.reports[-1])

    def _report_of(self, evaluation: Evaluation) -> dict[str, Any]:
        assert self._stats is not None, "an evaluation follows a step"
        state = self.state
        return {
            "step": state.step,
            "total_steps": self.total_steps,
            "epoch": self._order.epoch_at(state.step),
            "train_loss": state.take_mean_loss(),
            **evaluation.values,
            "learning_rate": self._stats.learning_rate,
            "grad_norm": self._stats.grad_norm,
            "skipped_steps": 0,
            "seconds": state.seconds,
            "device_seconds": state.seconds,  # each member's part of the pack's one device
            "tokens_per_second": state.tokens / state.train_seconds,
            "peak_memory_bytes": _peak_memory_bytes(self._slot.device),
            "trainable_parameters": self._slot.num_trained,
            "first_step_at": state.first_step_at,
            "execution": "packed",
        }

    def fail(self, state: str, error: str) -> None:
        """Report why the trial ends before its last step."""
        self._log.error("%s", error)
        self._report({"ending": {"state": state, "error": error}})

    def leave(self) -> None:
        """Free the slot."""
        self._pack.remove(self.number)
        self._trackers.close()
        self._log.info("left the pack after step %d", self.state.step)
        self._log.removeHandler(self._log_handler)
        self._log_handler.close()


def _count(row: Mapping[str, Any], column: str) -> int:
    count: int = row[column]
    return count


def _peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far of the whole pack."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
