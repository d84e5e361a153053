"""A pack host's loop and its door: trials over real sockets, with the shipped model and rows."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
import torch

import raytune_glm.packing.runner
from raytune_glm import ladder
from raytune_glm.checkpoint import best_adapter
from raytune_glm.config import RunConfig
from raytune_glm.packing.cpus import SharedCpus
from raytune_glm.packing.evaluation import evaluate_together
from raytune_glm.packing.messages import Attach, Close, Leave
from raytune_glm.packing.pack import Pack
from raytune_glm.packing.runner import PackRunner
from tests.packing.host import BASE, Host, reports


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with room for two trials."""
    found = Host(tmp_path, pack_size=2)
    yield found
    found.close()


def test_more_trials_than_slots_all_come_to_their_ends(host: Host) -> None:
    names = ["a", "b", "c", "d"]
    rates = {name: 1e-3 * number for number, name in enumerate(names, start=1)}
    talks = {name: host.attach(name, {"train.learning_rate": rates[name]}) for name in names}
    told = {name: reports(talk, 2) for name, talk in talks.items()}
    for name in names:
        assert [report["step"] for report in told[name]] == [3, 6]
        assert {report["execution"] for report in told[name]} == {"packed"}
        assert all(report["padding"] <= 0.1 for report in told[name])
        assert best_adapter(host.folder(name) / "checkpoint") is not None
        assert "in slot" in (host.folder(name) / "worker.log").read_text(encoding="utf-8")
    assert len({told[name][-1]["eval_loss"] for name in names}) == len(names)


def test_a_trial_that_leaves_gives_its_slot_to_the_next_and_can_come_back(host: Host) -> None:
    long = {"train.max_steps": 10**6}
    first, second = host.attach("first", long), host.attach("second", long)
    before = reports(first, 1)
    reports(second, 1)
    third = host.attach("third")
    host.dismiss(host.visits["first"])
    assert [report["step"] for report in reports(third, 2)] == [3, 6]
    again = host.attach("first", long)  # takes third's slot, from where it was
    later = reports(again, 2)
    assert later[0] == before[0]
    assert later[1]["step"] > later[0]["step"]
    again.close()
    second.close()


def test_a_host_whose_last_trial_was_stopped_leaves_its_cpus_to_the_other_process(
    host: Host,
) -> None:
    before = torch.get_num_threads()
    host.runner.cpus = SharedCpus(2)
    other = copy.copy(host.runner.cpus)  # of the same board, as after a fork
    other.take_second_place()
    try:
        talk = host.attach("trial", {"train.max_steps": 10**6})
        reports(talk, 1)
        other.begin()
        assert torch.get_num_threads() == 1
        host.dismiss(host.visits["trial"])
        end = time.monotonic() + 30
        while torch.get_num_threads() == 1:
            assert time.monotonic() < end, "it counts as busy"
            time.sleep(0.1)
            other.begin()
        talk.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("goes", [0, 1])
def test_of_two_processes_of_a_trial_the_one_that_stays_is_told_everything(
    host: Host, goes: int
) -> None:
    """Ray Tune starts one, and gives the trial another that has become free."""
    both = [host.attach("trial"), host.knock()]
    attach = {"attach": host.asked("trial"), "visit": host.visits["trial"]}
    both[1].send(attach)
    told = reports(both[goes], 1)
    both[goes].close()
    told_to_the_other = reports(both[1 - goes], 3)
    assert [report.get("step") for report in told_to_the_other] == [3, 6, None]
    assert told_to_the_other[:1] == told
    log = (host.folder("trial") / "worker.log").read_text(encoding="utf-8")
    assert log.count("in slot") == 1, "it is trained once"


def test_a_process_that_comes_after_its_trials_end_trains_nothing(host: Host) -> None:
    reports(host.attach("trial", {"train.max_steps": 10**6}), 1)
    late = host.knock()
    late.send({"dismiss": host.visits["trial"]})
    late.send({"attach": host.asked("trial"), "visit": host.visits["trial"]})
    assert reports(late, 1) == [{"over": True}]
    reports(host.attach("next"), 2)
    log = (host.folder("trial") / "worker.log").read_text(encoding="utf-8")
    assert log.count("in slot") == 1


def test_the_slot_of_a_pruned_trial_trains_the_next_one_in_the_next_pass(tmp_path: Path) -> None:
    """Asked of the loop itself: the scheduler's word comes as it does from Ray Tune."""
    runner = PackRunner(torch.device("cpu"), pack_size=2)
    events: list[tuple[str, int]] = []

    def attach(name: str) -> None:
        def report(told: dict[str, Any]) -> None:
            events.append((name, told["step"]))
            if (name, told["step"]) == ("pruned", 3):
                runner.inbox.put(Leave(key="pruned"))
            if (name, told["step"]) == ("next", 2):
                runner.inbox.put(Close())

        tree = {**BASE, "train": {**BASE["train"], "batch_size": 2, "eval_every_steps": 1}}
        runner.inbox.put(
            Attach(
                key=name,
                run=RunConfig.model_validate(tree),
                folder=tmp_path / name,
                metric="eval_loss",
                data_cache=tmp_path / "data",
                report=report,
            )
        )

    for name in ("pruned", "mate", "next"):
        attach(name)
    runner.run()
    rounds = [set(events[at : at + 2]) for at in range(0, len(events), 2)]
    assert rounds == [
        *({("pruned", step), ("mate", step)} for step in (1, 2, 3)),
        {("mate", 4), ("next", 1)},
        {("mate", 5), ("next", 2)},
    ]


def test_a_trial_that_diverges_fails_alone(host: Host) -> None:
    bad = host.attach(
        "bad",
        {
            "train.learning_rate": 9.0,
            "train.max_grad_norm": None,
            "train.warmup_ratio": 0.0,
            "train.max_steps": 400,
            "train.eval_every_steps": 400,
            "method.alpha": 1e18,
        },
    )
    mate = host.attach("mate")
    [ending] = reports(bad, 1)
    assert ending["ending"]["state"] == "FAILED"
    assert "likely cause is that train.learning_rate=9" in ending["ending"]["error"]
    assert [report["step"] for report in reports(mate, 2)] == [3, 6]


def test_settings_that_no_model_can_have_fail_that_trial(host: Host) -> None:
    bad = host.attach("bad", {"method.target_modules": ["no_such_linear"]})
    mate = host.attach("mate")
    [ending] = reports(bad, 1)
    assert ending["ending"]["state"] == "FAILED"
    assert "no_such_linear" in ending["ending"]["error"]
    assert [report["step"] for report in reports(mate, 2)] == [3, 6]


def test_the_saved_adapter_scores_as_it_was_reported(host: Host) -> None:
    talk = host.attach("trial")
    last = reports(talk, 2)[-1]
    adapter = best_adapter(host.folder("trial") / "checkpoint", step=6)
    assert adapter is not None
    scores = host.score(BASE, adapter, "dev", "test")
    assert scores["dev"]["values"]["eval_loss"] == pytest.approx(last["eval_loss"], abs=1e-5)
    assert set(scores) == {"dev", "test"}


def have_room_for_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of more find no memory, as on a device that is too small."""
    plain = Pack.train_pass

    def small(self: Pack, batches: Any, **weights: Any) -> Any:
        if sum(len(rows) for rows in batches.values()) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batches, **weights)

    monkeypatch.setattr(Pack, "train_pass", small)


def test_memory_that_does_not_suffice_for_all_is_shared_in_turns_and_then_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Host(tmp_path / "reference", pack_size=1)
    expected = reports(reference.attach("alone"), 2)
    reference.close()
    have_room_for_two_rows(monkeypatch)
    host = Host(tmp_path, pack_size=2)
    fits, mate = host.attach("fits"), host.attach("mate")
    too_big = host.attach("too_big", {"train.micro_batch_size": 4})
    for talk in (fits, mate):
        losses = [report["eval_loss"] for report in reports(talk, 2)]
        assert losses == pytest.approx([report["eval_loss"] for report in expected], abs=1e-5)
    told = reports(too_big, 4)
    assert told[0] == {"retry": {"train.gradient_checkpointing": True}}
    assert told[1]["retry"]["train.micro_batch_size"] == 2
    assert [report["step"] for report in told[2:]] == [3, 6]
    assert ladder.changes_of(host.folder("too_big"))["train.micro_batch_size"] == 2
    assert told[3]["eval_loss"] == pytest.approx(expected[1]["eval_loss"], abs=1e-4)
    host.close()


def test_memory_that_mates_take_is_no_reason_to_change_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What four rows need is there as long as no other trial has a slot."""
    plain = Pack.train_pass

    def crowded(self: Pack, batches: Any, **weights: Any) -> Any:
        if len(self.slots) > 1 and any(len(rows) == 4 for rows in batches.values()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batches, **weights)

    monkeypatch.setattr(Pack, "train_pass", crowded)
    host = Host(tmp_path, pack_size=2)
    mate = host.attach("mate")
    large = host.attach("large", {"train.micro_batch_size": 4})
    behind = host.attach("behind")
    for talk in (mate, large, behind):
        assert [report["step"] for report in reports(talk, 2)] == [3, 6]
    assert ladder.changes_of(host.folder("large")) == {}
    host.close()


def test_an_evaluation_is_not_lost_where_a_mate_runs_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_room_for_two_rows(monkeypatch)
    host = Host(tmp_path, pack_size=2)
    often = {"train.batch_size": 2, "train.eval_every_steps": 1, "train.max_steps": 20}
    first = host.attach("first", often)
    told = reports(first, 1)
    # It falls to a pass of its own and fails there, right after a step of the first's.
    too_big = host.attach("too_big", {"train.micro_batch_size": 4})
    told += reports(first, 19)
    assert [report["step"] for report in told] == list(range(1, 21))
    assert "retry" in reports(too_big, 1)[0]
    host.close()


def test_trials_that_are_evaluated_together_tell_each_others_scores(tmp_path: Path) -> None:
    runner = PackRunner(torch.device("cpu"), pack_size=3)
    told: dict[str, list[dict[str, Any]]] = {"0000": [], "0001": [], "0002": []}

    def attach(name: str, rate: float) -> None:
        def report(report: dict[str, Any]) -> None:
            told[name].append(report)
            if all(own and "over" in own[-1] for own in told.values()):
                runner.inbox.put(Close())

        runner.inbox.put(
            Attach(
                key=name,
                run=RunConfig.model_validate(
                    {**BASE, "train": {**BASE["train"], "learning_rate": rate}}
                ),
                folder=tmp_path / name,
                metric="eval_loss",
                data_cache=tmp_path / "data",
                report=report,
            )
        )

    for number, name in enumerate(told, start=1):  # all wait before the first pass
        attach(name, 1e-3 * number)
    runner.run()
    for step in (0, 1):
        scores = {name: own[step]["eval_loss"] for name, own in told.items()}
        for name, own in told.items():
            mates = {mate: score for mate, score in scores.items() if mate != name}
            assert sorted(own[step]["beside"]) == sorted(mates.items())


@pytest.mark.parametrize(
    ("metric", "steps_of_the_other", "evaluated"),
    [
        ("triple_f1", 9, [2]),  # a pass more, and answers to give: worth the wait
        ("triple_f1", 11, [1, 1]),  # more than an eighth of the passes from one to the next
        ("eval_loss", 9, [1, 1]),  # nothing to be gained
    ],
)
def test_trials_that_are_to_answer_wait_for_mates_that_soon_are_too(
    metric: str,
    steps_of_the_other: int,
    evaluated: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together: list[int] = []

    def counted(pack: Pack, evaluators: Any, **settings: Any) -> Any:
        together.append(len(evaluators))
        return evaluate_together(pack, evaluators, **settings)

    monkeypatch.setattr(raytune_glm.packing.runner, "evaluate_together", counted)
    runner = PackRunner(torch.device("cpu"), pack_size=2)
    left = {"0000", "0001"}

    def attach(name: str, steps: int) -> None:
        def report(report: dict[str, Any]) -> None:
            if "over" in report:
                left.remove(name)
            if not left:
                runner.inbox.put(Close())

        train = {**BASE["train"], "max_steps": steps, "eval_every_steps": steps, "batch_size": 2}
        runner.inbox.put(
            Attach(
                key=name,
                run=RunConfig.model_validate({**BASE, "train": train}),
                folder=tmp_path / name,
                metric=metric,
                data_cache=tmp_path / "data",
                report=report,
            )
        )

    attach("0000", 8)
    attach("0001", steps_of_the_other)
    runner.run()
    assert together == evaluated


def test_a_trial_that_leaves_while_it_waits_to_answer_keeps_nobody(tmp_path: Path) -> None:
    host = Host(tmp_path, pack_size=2)
    train = {"train.batch_size": 2, "train.eval_every_steps": 160, "train.max_steps": 160}
    waiting = host.attach("waiting", train, metric="triple_f1")
    later = {**train, "train.eval_every_steps": 178, "train.max_steps": 178}
    told = host.attach("later", later, metric="triple_f1")
    log = host.folder("waiting") / "train.jsonl"
    while not log.exists() or '"step": 160' not in log.read_text():
        time.sleep(0.01)
    assert not waiting.poll()  # it has taken all its steps, and waits for the other
    host.dismiss(host.visits["waiting"])
    assert [report["step"] for report in reports(told, 1)] == [178]
    host.close()


def test_a_trial_that_only_offload_helps_leaves_for_workers_of_its_own(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Pack, batches: Any, **settings: Any) -> Any:
        raise MemoryError("std::bad_alloc")

    on_a_cpu = ladder.step_down
    monkeypatch.setattr(ladder, "step_down", lambda run, on_gpu: on_a_cpu(run, on_gpu=True))
    monkeypatch.setattr(Pack, "train_pass", full)
    smallest = {
        "train.micro_batch_size": 1,
        "train.eval_batch_size": 1,
        "train.gradient_checkpointing": True,
    }
    talk = host.attach("a", smallest)
    offload = {"deepspeed.zero_stage": 1, "deepspeed.offload_optimizer": "cpu"}
    asked = {"retry": offload, "needs_workers": True}
    assert reports(talk, 1) == [asked]
    again = host.attach("a", smallest)
    assert reports(again, 1) == [asked], "as where the host died before the trial had heard of it"
    host.may_leave = False
    [report] = reports(host.attach("a", smallest), 1)
    assert report["ending"] == {"state": "INFEASIBLE", "error": "out of memory: std::bad_alloc"}


def test_a_trial_that_had_come_to_its_end_trains_no_further(tmp_path: Path) -> None:
    host = Host(tmp_path, pack_size=1)
    before = reports(host.attach("over"), 2)
    again = host.attach("over")
    assert reports(again, 2) == before
    reports(host.attach("next"), 2)  # there is one slot, which "over" does not keep
    assert reports(again, 1) == [{"over": True}]
    told = (host.folder("over") / "worker.log").read_text(encoding="utf-8").splitlines()
    assert told[-1].endswith("left the pack after step 6")
    host.close()


def test_memory_that_does_not_suffice_to_evaluate_together_does_for_each_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Pack.loss_sums

    def small(self: Pack, batches: Any) -> Any:
        if len(batches) > 1 or self.slots[next(iter(batches))].run.method.rank == 5:
            raise MemoryError("std::bad_alloc")
        return plain(self, batches)

    monkeypatch.setattr(Pack, "loss_sums", small)
    together = [host.attach(name) for name in ("a", "b")]
    for talk in together:
        assert [report["step"] for report in reports(talk, 2)] == [3, 6]
    never = host.attach("never", {"method.rank": 5})
    states = []
    while not states:
        [told] = reports(never, 1)
        states = [told["ending"]["state"]] if "ending" in told else []
    assert states == ["INFEASIBLE"]
    assert [report["step"] for report in reports(host.attach("next"), 2)] == [3, 6]


def test_a_full_disk_stops_the_trial_that_met_it_and_not_its_host(host: Host) -> None:
    long = {"train.max_steps": 10**6, "train.log_every_steps": 1}
    full = host.attach("full", long)
    reports(full, 1)
    link = host.folder("full") / "link"
    link.symlink_to("/dev/full")
    link.rename(host.folder("full") / "train.jsonl")
    ending: dict[str, Any] = {}
    while not ending:
        [told] = reports(full, 1)
        ending = told.get("ending", {})
    assert ending["state"] == "NO_ROOM"
    assert [report["step"] for report in reports(host.attach("next"), 2)] == [3, 6]


def test_a_trial_whose_patience_is_over_is_complete(host: Host) -> None:
    talk = host.attach(
        "hopeless",
        {
            "train.learning_rate": 0.1,
            "train.eval_every_steps": 1,
            "train.patience": 2,
            "train.max_steps": 50,
        },
    )
    told = reports(talk, 1)
    while "ending" not in told[-1]:
        told += reports(talk, 1)
    assert told[-1]["ending"]["state"] == "COMPLETE"
    assert "train.patience" in told[-1]["ending"]["note"]
    assert len(told) < 50


def test_a_host_trains_every_method_on_one_base_and_leaves_it_as_it_was(host: Host) -> None:
    before = reports(host.attach("before"), 2)
    full = host.attach("full", {"method": {"name": "full"}})
    freeze = host.attach("freeze", {"method": {"name": "freeze", "num_trainable_layers": 1}})
    ways = {}
    for name, talk in {"full": full, "freeze": freeze}.items():
        told = reports(talk, 2)
        assert [report["step"] for report in told] == [3, 6]
        ways[name] = told[-1]["execution"]
        adapter = best_adapter(host.folder(name) / "checkpoint", step=6)
        run = {**BASE, "method": {"name": name}}
        if name == "freeze":
            run["method"]["num_trainable_layers"] = 1
        assert adapter is not None
        scores = host.score(run, adapter, "dev")["dev"]["values"]
        assert scores["eval_loss"] == pytest.approx(told[-1]["eval_loss"], abs=1e-5)
    assert ways == {"full": "solo", "freeze": "packed"}
    after = reports(host.attach("after"), 2)
    assert [report["eval_loss"] for report in after] == [report["eval_loss"] for report in before]


def test_nobody_comes_in_without_the_key(host: Host) -> None:
    address = host.knock()
    address.close()
    with pytest.raises(Exception, match="digest"):
        Client(host.address, authkey=b"another")
    assert [report["step"] for report in reports(host.attach("trial"), 2)] == [3, 6]
    line = (host.folder("trial") / "config.yaml").read_text(encoding="utf-8")
    assert json.dumps("key") not in line
