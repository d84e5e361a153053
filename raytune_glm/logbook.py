"""A trial's logbook: how far it is, what it measured, and the files that tell of both.

    train.jsonl         a line every `train.log_every_steps` steps
    predictions.jsonl   the answers of the best evaluation
    checkpoint/         the state of the last evaluation, the adapters of the best ones

One for whatever trains: a DeepSpeed engine on several workers (`worker`), whose first one writes,
or a slot of a pack (`packing.trial`). Read next: `checkpoint`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.checkpoint import Checkpoints
from raytune_glm.config import RunConfig
from raytune_glm.config.overrides import flat
from raytune_glm.config.plan import is_evaluated, steps_to_evaluation, total_steps
from raytune_glm.endings import Ending
from raytune_glm.errors import NonFiniteLossError
from raytune_glm.metrics import METRICS, preference
from raytune_glm.tracking import Tracked, Trackers, open_trackers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from raytune_glm.data.order import BatchOrder
    from raytune_glm.engine.trainer import StepStats, Trainer
    from raytune_glm.evaluate import Evaluation

log = logging.getLogger(__name__)

STEPS = "train.jsonl"
PREDICTIONS = "predictions.jsonl"


@dataclass(kw_only=True)
class LoopState:
    """What a trial must remember over a resume, beside weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    best: tuple[float, float] | None = None
    """`metrics.preference` of the best evaluation so far."""
    worse_in_a_row: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    """Seconds since the first step, evaluations included, dead time before a resume not."""
    train_seconds: float = 0.0
    """Of those, seconds in optimizer steps."""
    tokens: int = 0
    """Tokens trained on, padding left out, all workers."""
    pads: int = 0
    """Padding tokens that were worked on beside them."""
    skipped_steps: int = 0
    """Steps that fp16's loss scaler skipped."""
    first_step_at: float | None = None
    """When the first step began, in seconds since 1970."""
    loss_sum: float = 0.0
    """Sum of the losses of the steps since the last report."""
    loss_steps: int = 0
    """Steps since the last report."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """All reports, made again after a resume: a kill may come between saving and telling."""

    def count(self, stats: StepStats, *, tokens: int, pads: int, seconds: float) -> None:
        """Count an optimizer step."""
        self.step += 1
        self.tokens += tokens
        self.pads += pads
        self.seconds += seconds
        self.train_seconds += seconds
        self.skipped_steps += stats.skipped
        self.loss_sum += stats.loss
        self.loss_steps += 1

    def take_mean_loss(self) -> float:
        """The mean training loss since the last report, which it starts anew."""
        mean = self.loss_sum / self.loss_steps
        self.loss_sum, self.loss_steps = 0.0, 0
        return mean


class Logbook:
    """Keeps one trial's state, on this rank. Every rank makes one and calls every method."""

    def __init__(
        self,
        trainer: Trainer,
        run: RunConfig,
        *,
        folder: Path,
        metric: str,
        order: BatchOrder,
        row: Mapping[str, Sequence[int]],
    ) -> None:
        """Begin at step 0.

        Args:
            trainer: What trains, and has not yet.
            run: The trial's settings.
            folder: The trial's folder.
            metric: Name of the metric by which an evaluation is the best.
            order: The order of its training rows.
            row: One of them, whose answer training must change.
        """
        from raytune_glm.data.collation import collate
        from raytune_glm.engine import distributed
        from raytune_glm.engine.probe import Probe

        self.state = LoopState()
        self.total_steps = total_steps(run.train, num_rows=order.num_rows)
        """Optimizer steps of the whole trial."""
        self._trainer = trainer
        self._run = run
        self._folder = folder
        self._metric = METRICS[metric]
        self._order = order
        self._stats: StepStats | None = None
        self._is_first = distributed.rank() == 0
        self._trackers = Trackers(())
        self._checkpoints = Checkpoints(
            folder / "checkpoint",
            run.method,
            save_total_limit=run.train.save_total_limit,
            probe=Probe(trainer, collate([row], pad_token_id=0)),
        )

    def resume(self) -> list[dict[str, Any]]:
        """Go to the last checkpoint, if there is one.

        Returns:
            The reports that were made before it, to be told again.
        """
        saved = self._checkpoints.resume(self._trainer)
        if saved is not None:
            self.state = LoopState(**saved)
        if self._is_first:
            _drop_lines_after(self._folder / STEPS, self.state.step)
            self._trackers = _open(self._run, self._folder)
            self._trackers.log_again(files.read_lines(self._folder / STEPS), self.state.reports)
        if self.state.first_step_at is None:
            self.state.first_step_at = time.time()
        return self.state.reports

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to train: all steps are done, or patience is over."""
        return self.state.step >= self.total_steps or self._is_out_of_patience

    @property
    def steps_to_evaluation(self) -> int:
        """Optimizer steps until the next one."""
        return steps_to_evaluation(self._run, self.state.step, self.total_steps)

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self._run.train.patience
        return patience is not None and self.state.worse_in_a_row >= patience

    @property
    def early_ending(self) -> Ending | None:
        """Why a trial that is over has not taken all its steps; None where it has."""
        if self.state.step >= self.total_steps:
            return None
        note = f"no better in {self.state.worse_in_a_row} evaluations (train.patience)"
        return {"state": "COMPLETE", "note": note}

    def count(self, stats: StepStats, *, tokens: int, pads: int, seconds: float) -> bool:
        """Count an optimizer step, and write its line where one is due.

        Args:
            stats: What the step did.
            tokens: Tokens of the step, padding left out, all workers.
            pads: Padding tokens that it worked on, all workers.
            seconds: What it took.

        Returns:
            Whether an evaluation follows.
        """
        self._stats = stats
        self.state.count(stats, tokens=tokens, pads=pads, seconds=seconds)
        step = self.state.step
        is_due = step % self._run.train.log_every_steps == 0 or step == self.total_steps
        if is_due and self._is_first:
            line = {"step": step, **asdict(stats)}
            files.append_line(self._folder / STEPS, line)
            self._trackers.log_step(line)
        return is_evaluated(self._run, step, self.total_steps)

    def keep(
        self, evaluation: Evaluation, rows: Dataset | None, *, seconds: float, **figures: Any
    ) -> dict[str, Any]:
        """Save a checkpoint, and the adapter and the answers where they are the best yet.

        Without dev rows the last evaluation is the best.

        Args:
            evaluation: What was measured after the last step.
            rows: The rows that it was on.
            seconds: What it took.
            figures: What else is to be reported.

        Returns:
            The report, plain data.

        Raises:
            NonFiniteLossError: The loss on dev is not finite.
            StorageError: The disk has no room for it.
            NoEffectError: The adapter changes nothing of what the model says.
        """
        self._refuse_non_finite(evaluation)
        state = self.state
        state.seconds += seconds
        report = {**self._report(evaluation), **figures}
        state.reports.append(report)
        measured = evaluation.values
        value = preference(measured, self._metric) if measured else (float(state.step), 0.0)
        is_best = state.best is None or value > state.best
        if is_best:
            state.best = value
            state.worse_in_a_row = 0
            if self._is_first and rows is not None and evaluation.answers is not None:
                _write_predictions(self._folder / PREDICTIONS, rows, evaluation.answers)
        else:
            state.worse_in_a_row += 1
        self._trackers.log_evaluation(report)
        self._checkpoints.save(self._trainer, step=state.step, loop=asdict(state), best=is_best)
        return report

    def _refuse_non_finite(self, evaluation: Evaluation) -> None:
        loss = evaluation.values.get("eval_loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"eval_loss became {loss}; the likely cause is that train.learning_rate="
                f"{self._run.train.learning_rate:g} is too high: lower it"
            )

    def _report(self, evaluation: Evaluation) -> dict[str, Any]:
        from raytune_glm.engine import distributed

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
            "skipped_steps": state.skipped_steps,
            "seconds": state.seconds,
            "device_seconds": state.seconds * distributed.world_size(),
            "tokens_per_second": state.tokens / state.train_seconds,
            "padding": state.pads / (state.tokens + state.pads),
            "peak_memory_bytes": self._trainer.peak_memory_bytes(),
            "trainable_parameters": self._trainer.trainable_parameters,
            "first_step_at": state.first_step_at,
        }

    def close(self) -> None:
        """Let go of the trackers. The checkpoint stays until the sweep knows the end."""
        self._trackers.close()


def _open(run: RunConfig, folder: Path) -> Trackers:
    """Open the trackers of a trial, new or resumed, by its settings and its folder."""
    settings = flat(run.model_dump(mode="json"))
    trial = Tracked(sweep=run.run.name, folder=folder, settings=settings)
    return open_trackers(trial, run.run.track)


def _write_predictions(path: Path, rows: Dataset, answers: Sequence[str]) -> None:
    """Write what a model answered to each row, beside what it should have."""
    lines = [
        json.dumps(
            {"source": source, "prediction": answer, "references": references}, ensure_ascii=False
        )
        for source, references, answer in zip(
            rows["source"], rows["references"], answers, strict=True
        )
    ]
    files.write_text(path, "\n".join(lines) + "\n")


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget the lines of steps that a resumed trial takes again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= step))
