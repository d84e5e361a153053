"""The loop of a pack host: trials come, train together, report, and leave.

One thread trains; others put messages into an inbox, which is looked into before every pass. A
trial that ends, is stopped or fails gives its slot to the next that waits; the rest do not stop.
Read next: `server`, which carries the messages.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from raytune_glm import files, ladder, memory
from raytune_glm.config import RunConfig
from raytune_glm.config.execution import hosting_obstacle, packing_obstacle
from raytune_glm.endings import ending_by
from raytune_glm.evaluate import Evaluation, Evaluator
from raytune_glm.packing.base import Base, base_key
from raytune_glm.packing.cpus import SharedCpus
from raytune_glm.packing.evaluation import evaluate_together
from raytune_glm.packing.messages import Attach, Close, Leave, Message, Score
from raytune_glm.packing.pace import Pace, Pacer
from raytune_glm.packing.pack import DataRow
from raytune_glm.packing.slot import twin
from raytune_glm.packing.trial import SlotTrial
from raytune_glm.score import score_model

log = logging.getLogger(__name__)


HELD_SHARE = 1 / 8
"""How long a trial that is to answer waits at most for mates that soon are, too, in terms of its
passes from one evaluation to the next: the answers of many take little more than those of one."""


@dataclass(kw_only=True)
class _Member:
    request: Attach
    trial: SlotTrial
    evaluator: Evaluator

    @property
    def answers_with_others(self) -> bool:
        """Whether an evaluation has it give answers, in one batch with other trials."""
        return self.evaluator.needs_answers and not self.trial.is_alone

    @property
    def most_held(self) -> int:
        """Passes that it may wait to be evaluated with others."""
        if not self.answers_with_others:
            return 0
        return int(self.trial.passes_an_evaluation * HELD_SHARE)


SPARE = 1.5
"""Free memory that a further trial must find, in terms of what each of those before it took."""


class PackRunner:
    """Trains whatever trials are attached, until it is told to close."""

    def __init__(
        self,
        device: torch.device,
        *,
        pack_size: int,
        is_forced: bool = True,
    ) -> None:
        """Train on `device`; trials beyond `pack_size` wait.

        Args:
            device: Where the base is, and the trials on it.
            pack_size: Most trials at a time.
            is_forced: Whether so many share a pass though fewer were measured to be faster.
        """
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._device = device
        self._pack_size = pack_size
        self._is_forced = is_forced
        self.tell: Callable[[Pace], None] = lambda pace: None
        """Told of what was measured."""
        self.cpus: SharedCpus | None = None
        """Those that this process shares with another."""
        self._waiting: list[Attach] = []
        self._members: dict[Hashable, _Member] = {}
        self._due: dict[Hashable, int] = {}
        """Trial that is to be evaluated -> how many passes more it may wait for others."""
        self._loners: set[Hashable] = set()
        """Trials that ran out of memory beside others: each is to have the device for itself."""
        self._base: tuple[str, Base] | None = None
        self._pacer = self._new_pacer()
        self._is_closed = False
        self._next_slot = 0

    def _new_pacer(self) -> Pacer:
        return Pacer(
            self._pack_size,
            is_forced=self._is_forced,
            memory=lambda: memory.used_bytes(self._device),
            tell=lambda pace: self.tell(pace),
        )

    def load(self, run: RunConfig, data_cache: Path) -> None:
        """Have the base of a run ready before its first trial comes."""
        self._base_of(run, data_cache)

    def run(self) -> None:
        """Train until closed; who is still here then leaves with what was last saved."""
        while True:
            self._take_messages()
            if self._is_closed:
                break
            self._admit()
            if self._members:
                self._share_cpus()
                self._pass()
        for key in list(self._members):
            self._remove(key)

    def pass_flop(self, run: RunConfig) -> float:
        """What a forward pass of the loaded base computes on a run's micro-batch of mean length."""
        assert self._base is not None, "only what is loaded passes"
        return self._base[1].row_flop * run.train.micro_batch_size

    def take_second_place(self) -> None:
        """Be the runner of a process that was forked, with half of the CPUs."""
        assert self.cpus is not None, "a second process shares CPUs with the first"
        self.cpus.take_second_place()
        self._pacer = self._new_pacer()  # whose memory is another process's

    def _share_cpus(self) -> None:
        if self.cpus is not None and self.cpus.begin():
            self._pacer.start_over()
            log.info("computes with %d thread(s) from now on", torch.get_num_threads())

    def _take_messages(self) -> None:
        """Take what is there; where nothing trains, wait for something."""
        while True:
            is_idle = not (self._members or self._waiting)
            if is_idle and self.cpus is not None:
                self.cpus.rest()
            try:
                message = self.inbox.get(block=is_idle)
            except queue.Empty:
                return
            match message:
                case Attach():
                    self._take_in(message)
                case Leave():
                    self._waiting = [w for w in self._waiting if w.key != message.key]
                    self._remove(message.key)
                case Score():
                    self._score(message)
                case Close():
                    self._is_closed = True
                    return

    def _take_in(self, request: Attach) -> None:
        """Have a trial wait for a slot; one that is on a rung that no host takes, leave at once."""
        try:
            must_go = _must_go(request)
        except Exception as error:
            log.exception("%s cannot begin", request.folder.name)
            self._end(request, error)
            return
        if must_go:  # as a host that died had found
            self._let_go(request)
        else:
            self._waiting.append(request)

    def _admit(self) -> None:
        """Give free slots to those that wait, of the base that is loaded or, if free, another."""
        for request in list(self._waiting):
            if len(self._members) >= self._pacer.slots or not self._has_memory():
                return
            if self._members and not self._loners.isdisjoint({request.key, *self._members}):
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

    def _has_memory(self) -> bool:
        """Whether there is room for one more like those that are here; always for the first."""
        if not self._members:
            return True
        taken = memory.used_bytes(self._device) - self._pacer.base_bytes
        needed = SPARE * taken / len(self._members)
        return memory.free_bytes(self._device) >= needed

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
        return self._base is not None and self._base[0] == base_key(run)

    def _base_of(self, run: RunConfig, data_cache: Path) -> Base:
        if self._base is None or not self._is_loaded(run):
            self._base = None  # first, so that two never are in memory together
            self._base = (base_key(run), Base(run, data_cache, self._device))
            self._pacer = self._new_pacer()
        return self._base[1]

    def _score(self, asked: Score) -> None:
        self._share_cpus()
        try:
            base = self._base_of(asked.run, asked.data_cache)
            method = asked.run.method
            changes_base = method.trains_base or packing_obstacle(asked.run) is not None
            model = twin(base.pack.base, shares_weights=not changes_base)
            scores = score_model(
                method.load(model, asked.adapter),
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
        self._due.pop(key, None)
        if member is not None:
            member.trial.leave()

    def _pass(self) -> None:
        """Train every member on one micro-batch of its own, and evaluate those that are due."""
        assert self._base is not None, "members have a base"
        base = self._base[1]
        self._due = {key: left - 1 for key, left in self._due.items()}
        round_seconds, round_tokens = 0.0, 0
        num_members = 0 if self._due else len(self._members)
        for group in self._groups():
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
            seconds = time.monotonic() - started
            if not _is_alone(group):
                round_seconds += seconds
                round_tokens += sum(_num_tokens(rows) for rows in batches.values())
            seconds /= len(group)
            for key, member in group.items():
                try:
                    if member.trial.passed(losses[member.trial.number], seconds=seconds):
                        self._due[key] = member.most_held
                except Exception as error:
                    self._fail(key, error)
        if round_tokens and len(self._members) == num_members:  # nobody was held, nobody has left
            self._pacer.took(round_seconds, round_tokens)
        if self._due and not self._is_worth_waiting():
            self._evaluate(base, list(self._due))

    def _is_worth_waiting(self) -> bool:
        """Whether another trial will be due while those that are may wait."""
        left = min(self._due.values())
        others = [m for key, m in self._members.items() if key not in self._due]
        return any(
            other.trial.passes_to_evaluation <= left
            for other in others
            if other.answers_with_others
        )

    def _groups(self) -> list[dict[Hashable, _Member]]:
        """The members by the passes that they go through together, those alone each by itself."""
        sharing = sum(not member.trial.is_alone for member in self._members.values())
        size = self._pacer.size(sharing)
        training = [item for item in self._members.items() if item[0] not in self._due]
        shared = [item for item in training if not item[1].trial.is_alone]
        groups = [dict(shared[first : first + size]) for first in range(0, len(shared), size)]
        return groups + [{key: member} for key, member in training if member.trial.is_alone]

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
        self._pacer.shrink(len(group) // 2)

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _descend(self, request: Attach, text: str) -> None:
        """Take a trial that does not fit even alone to the next rung of the ladder."""
        run = ladder.applied(request.run, request.folder)
        changes = ladder.descend(run, request.folder, text, on_gpu=self._device.type == "cuda")
        self._loners.discard(request.key)
        if changes is None:
            request.report({"ending": {"state": "INFEASIBLE", "error": text}})
        elif _must_go(request):
            self._let_go(request)
        else:
            log.warning("%s goes on with %s", request.folder.name, changes)
            request.report({"retry": changes})
            self._waiting.insert(0, request)

    def _let_go(self, request: Attach) -> None:
        """Have a trial on a rung of the ladder that no host can take go on elsewhere, or end."""
        rung = files.read_lines(request.folder / ladder.LADDER)[-1]
        if request.may_leave:
            log.warning("%s leaves for workers of its own: %s", request.folder.name, rung)
            request.report({"retry": rung["changes"], "needs_workers": True})
        else:
            request.report({"ending": {"state": "INFEASIBLE", "error": rung["error"]}})

    def _evaluate(self, base: Base, due: Sequence[Hashable]) -> None:
        members = {key: self._members[key] for key in due}
        self._due = {key: left for key, left in self._due.items() if key not in members}
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
                trial.evaluated(
                    found[trial.number],
                    member.evaluator.rows,
                    seconds=seconds,
                    beside=_beside(member, members.values(), found),
                )
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
        if self._members and memory.is_out_of_memory(error):
            # The mates may be what takes the memory: first it goes on without them.
            self._loners.add(key)
            self._waiting.insert(0, request)
            return
        self._end(request, error)

    def _end(self, request: Attach, error: Exception) -> None:
        """Report how an error ends a trial, or go on with it where less memory may do."""
        ending = ending_by(error)
        if ending["state"] == "INFEASIBLE":
            self._descend(request, ending["error"])
        else:
            request.report({"ending": ending})


def _must_go(request: Attach) -> bool:
    """Whether a trial is on a rung of the ladder that needs workers of its own."""
    return hosting_obstacle(ladder.applied(request.run, request.folder)) is not None


def _beside(
    member: _Member, members: Iterable[_Member], found: Mapping[int, Evaluation]
) -> dict[str, float]:
    """What the others that were evaluated with a trial, after as many steps, reached."""
    metric = member.request.metric
    return {
        mate.request.folder.name: found[mate.trial.number].values[metric]
        for mate in members
        if mate is not member and mate.trial.step == member.trial.step
    }


def _is_alone(group: Mapping[Hashable, _Member]) -> bool:
    return any(member.trial.is_alone for member in group.values())


def _num_tokens(rows: Sequence[DataRow]) -> int:
    return sum(len(row["input_ids"]) for row in rows)
