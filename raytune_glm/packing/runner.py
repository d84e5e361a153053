"""The loop of a pack host: trials come, train together, report, and leave.

One thread trains; others put messages into an inbox, which is looked into before every pass. A
trial that ends, is stopped or fails gives its slot to the next that waits; the rest do not stop.
Read next: `server`, which carries the messages.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raytune_glm import ladder, memory
from raytune_glm.config import RunConfig
from raytune_glm.config.execution import packing_obstacle
from raytune_glm.data import Split
from raytune_glm.data.store import EncodedData, encode_splits
from raytune_glm.endings import ending_by
from raytune_glm.evaluate import Evaluation, Evaluator
from raytune_glm.packing.evaluation import evaluate_together
from raytune_glm.packing.pack import Pack
from raytune_glm.packing.slot import twin
from raytune_glm.packing.trial import Rows, SlotTrial
from raytune_glm.retention import Retention
from raytune_glm.score import score_model

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Attach:
    """A trial wants a slot."""

    key: Hashable
    """Names the trial in later messages."""
    run: RunConfig
    folder: Path
    metric: str
    data_cache: Path
    report: Report
    """Told of each evaluation, and of why the trial ends where it ends early; must not block."""


@dataclass(frozen=True, kw_only=True)
class Leave:
    """A trial is to stop where it is."""

    key: Hashable


@dataclass(frozen=True, kw_only=True)
class Score:
    """A saved adapter is to be scored on a base that is loaded already."""

    run: RunConfig
    adapter: Path
    data_cache: Path
    metrics: Sequence[str]
    splits: Sequence[Split]
    answer: Callable[[dict[str, Any]], None]
    """Told `scores`, or `error`."""


@dataclass(frozen=True, kw_only=True)
class Close:
    """The host is no longer needed."""


Message = Attach | Leave | Score | Close


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


@dataclass(kw_only=True)
class _Member:
    request: Attach
    trial: SlotTrial
    evaluator: Evaluator


class PackRunner:
    """Trains whatever trials are attached, until it is told to close."""

    def __init__(self, device: torch.device, *, pack_size: int) -> None:
        """Train on `device`, at most `pack_size` trials at a time; the others wait."""
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._device = device
        self._pack_size = pack_size
        self._together = pack_size
        self._waiting: list[Attach] = []
        self._members: dict[Hashable, _Member] = {}
        self._base: tuple[str, Base] | None = None
        self._is_closed = False
        self._next_slot = 0

    def load(self, run: RunConfig, data_cache: Path) -> None:
        """Have the base of a run ready before its first trial comes."""
        self._base_of(run, data_cache)

    def run(self) -> None:
        """Train until closed."""
        while not self._is_closed:
            self._take_messages()
            self._admit()
            if self._members:
                self._pass()

    def _take_messages(self) -> None:
        """Take what is there; where nothing trains, wait for something."""
        while True:
            try:
                message = self.inbox.get(block=not (self._members or self._waiting))
            except queue.Empty:
                return
            match message:
                case Attach():
                    self._waiting.append(message)
                case Leave():
                    self._waiting = [w for w in self._waiting if w.key != message.key]
                    self._remove(message.key)
                case Score():
                    self._score(message)
                case Close():
                    self._is_closed = True
                    return

    def _admit(self) -> None:
        """Give free slots to those that wait, of the base that is loaded or, if free, another."""
        for request in list(self._waiting):
            if len(self._members) >= self._pack_size:
                return
            if self._members and not self._is_loaded(request.run):
                continue
            self._waiting.remove(request)
            try:
                member = self._member(request)
            except Exception as error:
                if self._members and memory.is_out_of_memory(error):
                    self._waiting.insert(0, request)  # until a mate has gone
                    return
                log.exception("%s cannot begin", request.folder.name)
                self._end(request, error)
                continue
            if member.trial.is_over:  # a kill came between its last save and its end
                member.trial.finish()
            else:
                self._members[request.key] = member

    def _member(self, request: Attach) -> _Member:
        base = self._base_of(request.run, request.data_cache)
        run = ladder.applied(request.run, request.folder)
        self._next_slot += 1
        trial = SlotTrial(
            base.pack,
            self._next_slot,
            run,
            rows=base.rows,
            folder=request.folder,
            metric=request.metric,
            report=request.report,
        )
        log.info("%s has a slot, of %d", request.folder.name, len(self._members) + 1)
        evaluator = base.evaluator(run, request.metric)
        return _Member(request=request, trial=trial, evaluator=evaluator)

    def _is_loaded(self, run: RunConfig) -> bool:
        return self._base is not None and self._base[0] == _base_key(run)

    def _base_of(self, run: RunConfig, data_cache: Path) -> Base:
        if self._base is None or not self._is_loaded(run):
            self._base = None  # first, so that two never are in memory together
            self._base = (_base_key(run), Base(run, data_cache, self._device))
        return self._base[1]

    def _score(self, asked: Score) -> None:
        try:
            base = self._base_of(asked.run, asked.data_cache)
            scores = score_model(
                asked.run.method.load(twin(base.pack.base), asked.adapter),
                asked.run,
                data=base.data,
                family=base.family,
                tokenizer=base.tokenizer,
                metrics=asked.metrics,
                splits=asked.splits,
            )
        except Exception as error:
            log.exception("%s cannot be scored", asked.adapter)
            asked.answer({"error": str(error)})
        else:
            asked.answer({"scores": {split: asdict(found) for split, found in scores.items()}})

    def _remove(self, key: Hashable) -> None:
        member = self._members.pop(key, None)
        if member is not None:
            member.trial.leave()

    def _pass(self) -> None:
        """Train every member on one micro-batch of its own, and evaluate those that are due."""
        assert self._base is not None, "members have a base"
        base = self._base[1]
        members = list(self._members.items())
        due: list[Hashable] = []
        for first in range(0, len(members), self._together):
            group = dict(members[first : first + self._together])
            started = time.monotonic()
            batches = {m.trial.number: m.trial.next_rows() for m in group.values()}
            weights = {m.trial.number: m.trial.loss_weight for m in group.values()}
            try:
                losses = base.pack.train_pass(batches, loss_weights=weights)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                self._shrink(group, error)
                break
            seconds = (time.monotonic() - started) / len(group)
            for key, member in group.items():
                try:
                    if member.trial.passed(losses[member.trial.number], seconds=seconds):
                        due.append(key)
                except Exception as error:
                    self._fail(key, error)
        if due:
            self._evaluate(base, due)

    def _shrink(self, group: dict[Hashable, _Member], error: Exception) -> None:
        """After memory ran out: take the group's steps again, fewer trials at a time."""
        log.warning("out of memory with %d trials in a pass: %s", len(group), error)
        if len(group) == 1:
            [key] = group
            self._fail(key, error)
            return
        for member in group.values():
            member.trial.restart_step()
        self._empty_cache()
        self._together = max(1, len(group) // 2)

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _descend(self, request: Attach, text: str) -> None:
        """Take a trial that does not fit even alone to the next rung of the ladder."""
        run = ladder.applied(request.run, request.folder)
        changes = ladder.descend(run, request.folder, text, on_gpu=self._device.type == "cuda")
        if changes is None or packing_obstacle(ladder.applied(run, request.folder)) is not None:
            request.report({"ending": {"state": "INFEASIBLE", "error": text}})
            return
        log.warning("%s goes on with %s", request.folder.name, changes)
        request.report({"retry": changes})
        self._waiting.insert(0, request)

    def _evaluate(self, base: Base, due: Sequence[Hashable]) -> None:
        members = {key: self._members[key] for key in due}
        found: dict[int, Evaluation] | None = None
        started = time.monotonic()
        try:
            found = evaluate_together(
                base.pack,
                {m.trial.number: m.evaluator for m in members.values()},
                retention=base.retention,
            )
        except Exception as error:
            if len(due) == 1:
                self._fail(due[0], error)
                return
            log.warning("%d trials cannot be evaluated together: %s", len(due), error)
        if found is None:  # outside the handler, whose error holds on to memory
            self._empty_cache()
            for key in due:
                self._evaluate(base, [key])
            return
        seconds = (time.monotonic() - started) / len(members)
        for key, member in members.items():
            trial = member.trial
            try:
                trial.evaluated(found[trial.number], member.evaluator.rows, seconds=seconds)
            except Exception as error:
                self._fail(key, error)
                continue
            if trial.is_over:
                del self._members[key]
                trial.finish()

    def _fail(self, key: Hashable, error: Exception) -> None:
        """Have a trial leave that cannot go on as it is; the others do."""
        log.error("trial %s cannot go on: %s", key, error, exc_info=error)
        request = self._members[key].request
        self._remove(key)
        self._empty_cache()
        self._end(request, error)

    def _end(self, request: Attach, error: Exception) -> None:
        """Report how an error ends a trial, or go on with it where less memory may do."""
        ending = ending_by(error)
        if ending["state"] == "INFEASIBLE":
            self._descend(request, ending["error"])
        else:
            request.report({"ending": ending})


def _base_key(run: RunConfig) -> str:
    """What trials must share to be in one pack: base, precision, quantization and data."""
    return run.model.model_dump_json() + run.data.model_dump_json()
