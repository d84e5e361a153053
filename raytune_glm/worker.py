"""One worker of one trial: load, train, evaluate, checkpoint, report. Nothing of Ray is known here.

`train` is the loop, from top to bottom. What it talks to (`report`, `clock`) comes as arguments, so
that it runs in a notebook or a test as it does in a cluster. Read next: `engine.deepspeed`,
`evaluate`.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files, memory
from raytune_glm.checkpoint import Checkpoints
from raytune_glm.config import RunConfig
from raytune_glm.config.load import flat
from raytune_glm.config.plan import is_evaluated, total_steps
from raytune_glm.errors import NoEffectError, NonFiniteLossError, ZeroLossError
from raytune_glm.metrics import METRICS, preference
from raytune_glm.tracking import Tracked, Trackers, open_trackers

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from raytune_glm.config.tree import ModelSettings
    from raytune_glm.data.order import BatchOrder
    from raytune_glm.engine.deepspeed import DeepSpeedEngine, StepStats
    from raytune_glm.evaluate import Evaluation, Evaluator

log = logging.getLogger(__name__)

ENDING = "ending.json"
"""File in a trial's folder that tells why it ended, where that could not be reported."""
NO_ROOM = "NO_ROOM"
"""State of an ending that is none: the trial goes on once its disk has room again."""

Report = Callable[[dict[str, Any]], None]
"""Takes one evaluation of the trial, plain data, from every rank, and is a barrier for them."""


@dataclass(kw_only=True)
class LoopState:
    """What the loop itself must remember over a resume."""

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

    def count(self, stats: StepStats, *, tokens: int, seconds: float) -> None:
        """Count an optimizer step."""
        self.step += 1
        self.tokens += tokens
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
    except (NonFiniteLossError, ZeroLossError, NoEffectError) as error:
        log.error("%s", error)
        report({"ending": {"state": "FAILED", "error": str(error)}})
    except (RuntimeError, MemoryError, OSError) as error:
        if files.lacks_room(error):
            ending = {"state": NO_ROOM, "error": str(error)}
        elif memory.is_out_of_memory(error):
            ending = {"state": "INFEASIBLE", "error": f"out of memory: {error}"}
            files.write_json(folder / ENDING, ending)
        else:
            raise
        log.exception("%s", ending["state"])
        if run.run.num_workers > 1:
            files.write_json(folder / ENDING, ending)
            raise
        report({"ending": ending})


def read_ending(folder: Path) -> dict[str, str] | None:
    """What a worker that ran out of memory or disk left in the trial's folder: `state`, `error`."""
    path = folder / ENDING
    if not path.exists():
        return None
    ending: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return ending


def _train(
    run: RunConfig,
    folder: Path,
    data_cache: Path,
    metric: str,
    report: Report,
    clock: Callable[[], float],
) -> None:
    trial = _Trial(run, folder=folder, data_cache=data_cache, metric=metric)
    state = trial.resume()
    for told in state.reports:
        report(told)
    if state.first_step_at is None:
        state.first_step_at = time.time()
    with memory.limited(run.run.memory_per_worker_bytes):
        while state.step < trial.total_steps and not trial.is_out_of_patience(state):
            started = clock()
            tokens, stats = trial.step(state.step)
            state.count(stats, tokens=tokens, seconds=clock() - started)
            trial.note(state, stats)
            if not is_evaluated(run, state.step, trial.total_steps):
                continue
            started = clock()
            evaluation = trial.evaluate()
            state.seconds += clock() - started
            state.reports.append(trial.report(state, stats, evaluation))
            trial.keep(state, evaluation)
            report(state.reports[-1])
    if state.step < trial.total_steps:
        note = f"no better in {state.worse_in_a_row} evaluations (train.patience)"
        report({"ending": {"state": "COMPLETE", "note": note}})
    trial.close()


class _Trial:
    """The parts of a trial on one worker."""

    def __init__(self, run: RunConfig, *, folder: Path, data_cache: Path, metric: str) -> None:
        from raytune_glm.data.batches import Batches
        from raytune_glm.data.collation import collate, pad_token_id
        from raytune_glm.data.store import encode_splits
        from raytune_glm.engine import distributed
        from raytune_glm.engine.deepspeed import DeepSpeedEngine
        from raytune_glm.engine.probe import Probe
        from raytune_glm.engine.process import choose_accelerator, spreading_weights
        from raytune_glm.evaluate import Evaluator

        device = choose_accelerator()
        family = run.model.inspect().family
        tokenizer = run.model.load_tokenizer()
        data = encode_splits(run.data, family=family, tokenizer=tokenizer, cache_dir=data_cache)
        with spreading_weights(run, device) as place:
            base = _model_settings(run).load(place)
            _seed(run.train.seed)  # loading may have drawn
            model = _prepared(run, run.method.apply(base, family))
        self._run = run
        self._folder = folder
        self._metric = METRICS[metric]
        self.total_steps = total_steps(run.train, num_rows=len(data.train))
        self._engine: DeepSpeedEngine = DeepSpeedEngine(model, run, total_steps=self.total_steps)
        self._order = _order(run, data.train)
        self._batches: Batches = Batches(
            rows=data.train,
            order=self._order,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            micro_batch_size=run.train.micro_batch_size,
            pad_token_id=pad_token_id(tokenizer),
            joined_length=run.data.max_length if run.train.packing else None,
        )
        self._evaluator: Evaluator | None = None
        if data.dev is not None:
            self._evaluator = Evaluator(
                rows=data.dev,
                metrics=sorted({"eval_loss", metric, *run.train.metrics}),
                family=family,
                tokenizer=tokenizer,
                batch_size=run.train.eval_batch_size,
                max_new_tokens=run.train.max_new_tokens,
            )
        self._checkpoints = Checkpoints(
            folder / "checkpoint",
            run.method,
            save_total_limit=run.train.save_total_limit,
            probe=Probe(
                self._engine, collate([data.train[0]], pad_token_id=pad_token_id(tokenizer))
            ),
        )
        self._is_first = distributed.rank() == 0
        self._trackers = Trackers(())
        # Dropout differs between workers, as their rows do; initialisation above did not.
        _seed(run.train.seed + distributed.rank())

    def resume(self) -> LoopState:
        """Go to the last checkpoint, if there is one."""
        saved = self._checkpoints.resume(self._engine)
        state = LoopState() if saved is None else LoopState(**saved)
        if self._is_first:
            lines = self._folder / "train.jsonl"
            drop_lines_after(lines, state.step)
            self._trackers = track(self._run, self._folder)
            self._trackers.log_again(files.read_lines(lines), state.reports)
        return state

    def is_out_of_patience(self, state: LoopState) -> bool:
        """Whether too many evaluations in a row were no better than the best one."""
        patience = self._run.train.patience
        return patience is not None and state.worse_in_a_row >= patience

    def step(self, step: int) -> tuple[int, StepStats]:
        """Take optimizer step number `step`, from 0; give all workers' tokens, and the figures."""
        batch = self._batches.at(step)
        stats = self._engine.train_step(
            batch.micro_batches, num_label_tokens=batch.num_label_tokens
        )
        return batch.num_tokens, stats

    def note(self, state: LoopState, stats: StepStats) -> None:
        """Write a line of `train.jsonl`, where one is due."""
        due = state.step % self._run.train.log_every_steps == 0 or state.step == self.total_steps
        if due and self._is_first:
            line = {"step": state.step, **asdict(stats)}
            files.append_line(self._folder / "train.jsonl", line)
            self._trackers.log_step(line)

    def evaluate(self) -> Evaluation:
        """Score the model on the dev rows, where there are any.

        Raises:
            NonFiniteLossError: The loss on dev is not finite.
        """
        from raytune_glm.evaluate import Evaluation

        if self._evaluator is None:
            return Evaluation(values={}, answers=None)
        evaluation = self._evaluator.evaluate(
            self._engine.model, self._engine.device, in_step=self._engine.needs_all_ranks
        )
        loss = evaluation.values["eval_loss"]
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"eval_loss became {loss}; the likely cause is that train.learning_rate="
                f"{self._run.train.learning_rate:g} is too high: lower it"
            )
        return evaluation

    def keep(self, state: LoopState, evaluation: Evaluation) -> None:
        """Save a checkpoint, and the adapter and the answers where they are the best yet.

        Without dev rows the last one is.
        """
        measured = evaluation.values
        value = preference(measured, self._metric) if measured else (float(state.step), 0.0)
        is_best = state.best is None or value > state.best
        if is_best:
            state.best = value
            state.worse_in_a_row = 0
            if self._is_first and self._evaluator is not None and evaluation.answers is not None:
                write_predictions(self._folder, self._evaluator.rows, evaluation.answers)
        else:
            state.worse_in_a_row += 1
        self._trackers.log_evaluation(state.reports[-1])
        self._checkpoints.save(self._engine, step=state.step, loop=asdict(state), best=is_best)

    def report(self, state: LoopState, stats: StepStats, evaluation: Evaluation) -> dict[str, Any]:
        """The plain data that an evaluation is reported as."""
        from raytune_glm.engine import distributed

        return {
            "step": state.step,
            "total_steps": self.total_steps,
            "epoch": self._order.epoch_at(state.step),
            "train_loss": state.take_mean_loss(),
            **evaluation.values,
            "learning_rate": stats.learning_rate,
            "grad_norm": stats.grad_norm,
            "skipped_steps": state.skipped_steps,
            "seconds": state.seconds,
            "device_seconds": state.seconds * distributed.world_size(),
            "tokens_per_second": state.tokens / state.train_seconds,
            "peak_memory_bytes": self._engine.peak_memory_bytes(),
            "trainable_parameters": self._engine.trainable_parameters,
            "first_step_at": state.first_step_at,
        }

    def close(self) -> None:
        """Let go of what the engine holds. The checkpoint stays until the sweep knows the end."""
        self._trackers.close()
        self._engine.close()


def track(run: RunConfig, folder: Path) -> Trackers:
    """Open the trackers of a trial, new or resumed, by its settings and its folder."""
    settings = flat(run.model_dump(mode="json"))
    trial = Tracked(sweep=run.run.name, folder=folder, settings=settings)
    return open_trackers(trial, run.run.track)


def _model_settings(run: RunConfig) -> ModelSettings:
    """The settings to load the base by: packed rows need an attention that keeps them apart."""
    if run.train.packing and run.model.attention == "auto":
        return run.model.model_copy(update={"attention": "sdpa"})
    return run.model


def _prepared(run: RunConfig, model: PreTrainedModel) -> PreTrainedModel:
    """Set a model up for training, its method on it already."""
    if run.train.gradient_checkpointing:
        # Without reentrance, frozen inputs may stay without a gradient of their own.
        model.activation_checkpointing_enable({"use_reentrant": False})
    if run.train.neftune_noise_alpha is not None:
        from raytune_glm.engine.neftune import add_noise

        add_noise(model, run.train.neftune_noise_alpha)
    return model


def _order(run: RunConfig, rows: Dataset) -> BatchOrder:
    import numpy as np

    from raytune_glm.data.order import BatchOrder

    return BatchOrder(
        num_rows=len(rows),
        batch_size=run.train.batch_size,
        seed=run.train.seed,
        lengths=np.asarray(rows["length"]) if run.train.group_by_length else None,
    )


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def write_predictions(folder: Path, rows: Dataset, answers: list[str]) -> None:
    """Write what a model answered to each row into a trial's folder, beside what it should have."""
    lines = [
        json.dumps(
            {"source": source, "prediction": answer, "references": references}, ensure_ascii=False
        )
        for source, references, answer in zip(
            rows["source"], rows["references"], answers, strict=True
        )
    ]
    files.write_text(folder / "predictions.jsonl", "\n".join(lines) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Forget the lines of steps that a resumed trial takes again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        files.write_text(path, "".join(line for line in lines if json.loads(line)["step"] <= step))
