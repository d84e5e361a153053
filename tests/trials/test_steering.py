"""Orders to a sweep, without Ray: what the driver does with them, and what the study keeps."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from rich.console import Console

from raytune_glm import files
from raytune_glm.config import RunConfig
from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search import SearchSettings
from raytune_glm.trials import orders
from raytune_glm.trials.bridge import LedgerSearcher
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.orders import Answer, Order
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.records import ResultsFolder, State
from raytune_glm.trials.scheduling import SteeredScheduler
from raytune_glm.trials.steering import Steering
from tests.shipped import MODEL, data

SEARCH = SearchSettings.model_validate(
    {
        "num_trials": 3,
        "sampler": {"name": "random"},
        "space": {"train.learning_rate": {"log_range": [1e-4, 1e-2]}},
    }
)
BASE = RunConfig.model_validate(
    {
        "model": {"path": str(MODEL)},
        "data": data("train", dev_rows=8),
        "method": {"name": "lora", "rank": 4},
        "train": {"max_steps": 4},
    }
)


class Sweep:
    """A driver without Ray: a ledger, and an ear for orders."""

    def __init__(self, root: Path, confirmed: Path | None = None) -> None:
        self.root = confirmed or root
        self.results = ResultsFolder(root)
        self.ledger = Ledger(self.results, SEARCH, mode="min")
        console = Console(file=io.StringIO(), width=200)
        progress = Progress(console, SEARCH, mode="min", rows=())
        self.steering = Steering(self.results, self.ledger, BASE, progress, confirmed=confirmed)

    def told(self, **order: Any) -> Answer:
        """What the driver answers to an order."""
        name = orders.send(self.root, Order(**order))
        self.steering._next_poll = 0.0
        self.steering.poll()
        answer = orders.await_answer(self.root, name, timeout_s=1, is_running=lambda: True)
        assert answer is not None
        return answer

    def report(self, number: int, step: int) -> None:
        """A trial reports an evaluation."""
        self.ledger.report(number, _report(step))

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="sweep", storage=f"sqlite:///{self.results.study}")


def _report(step: int) -> dict[str, Any]:
    return {"step": step, "total_steps": 4, "eval_loss": 1 / step, "first_step_at": 2e9}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "sweep")


def test_more_trials_are_added_and_stay_after_a_resume(sweep: Sweep) -> None:
    sweep.ledger.propose()
    sweep.report(0, 1)
    assert sweep.told(action="add", count=2).text == "2 more trial(s), 5 in all"
    assert Sweep(sweep.results.root).ledger.num_left == 5


def test_a_clone_has_the_others_values_and_its_lineage_is_in_the_study(sweep: Sweep) -> None:
    first = sweep.ledger.propose()
    answer = sweep.told(action="clone", trial=0, changes={"train.learning_rate": 2e-3})
    assert answer.done
    assert answer.text == "trial 1 is a clone of trial 0 with learning_rate=0.002"
    clone = sweep.ledger.propose()
    assert (clone.number, clone.params) == (1, {"train.learning_rate": 2e-3})
    assert clone.params != first.params
    kept = sweep.study().trials[1]
    assert kept.params == {"train.learning_rate": 2e-3}
    assert kept.user_attrs["parent"] == {"number": 0, "step": 0}
    assert kept.user_attrs["orders"][0]["action"] == "clone"
    # It is a trial more, not one of those that the sweep was to have.
    assert sweep.ledger.num_left == 2


def test_a_clone_outside_the_space_is_run_but_not_learnt_from(sweep: Sweep) -> None:
    sweep.ledger.propose()
    assert sweep.told(action="clone", trial=0, changes={"method.rank": 8}).done
    clone = sweep.ledger.propose()
    assert clone.params["method.rank"] == 8
    assert sweep.study().trials[1].params == {}


def test_a_pause_sets_running_trials_aside_until_it_is_over(sweep: Sweep) -> None:
    scheduler = SteeredScheduler(
        RuledScheduler(
            FIFOScheduler(), must_stop=sweep.ledger.is_over, must_go_on=sweep.ledger.shelter
        ),
        sweep.ledger,
        sweep.steering,
    )
    trial = Trial("running", stub=True)
    trial.config = {"number": sweep.ledger.propose().number}
    assert scheduler.on_trial_result(None, trial, _report(1)) == "CONTINUE"
    sweep.report(0, 1)
    assert sweep.told(action="pause").text.startswith("paused: 1 running trial(s)")
    assert (sweep.results.root / orders.PAUSED).exists()
    assert scheduler.on_trial_result(None, trial, _report(2)) == "STOP"
    sweep.report(0, 2)
    assert sweep.steering.waiting == {0}
    sweep.ledger.suspend(0)
    assert sweep.told(action="resume").done
    again = sweep.ledger.propose()
    assert (again.number, again.last_step) == (0, 2)
    # What it tells again has been decided over; the last step is never kept waiting.
    assert scheduler.on_trial_result(None, trial, _report(1)) == "CONTINUE"
    sweep.told(action="pause")
    assert scheduler.on_trial_result(None, trial, _report(4)) == "CONTINUE"


def test_a_trial_that_waits_for_the_end_of_a_pause_can_be_stopped(sweep: Sweep) -> None:
    sweep.ledger.propose()
    sweep.report(0, 2)
    sweep.told(action="pause")
    sweep.ledger.suspend(0)
    answer = sweep.told(action="stop", trial=0)
    assert answer.done
    assert [(row.number, row.state, row.steps) for row in sweep.results.rows()] == [
        (0, State.PRUNED, 2)
    ]
    assert sweep.study().trials[0].state.name == "PRUNED"
    assert sweep.told(action="resume").done
    assert sweep.ledger.propose().number == 1


@pytest.mark.parametrize(
    "order", [{"action": "add", "count": 1}, {"action": "stop", "trial": 0}], ids=str
)
def test_while_the_best_trials_are_repeated_the_search_can_no_longer_be_changed(
    sweep: Sweep, order: dict[str, Any]
) -> None:
    repeats = Sweep(sweep.results.root / "confirm/0000-x2", confirmed=sweep.results.root)
    repeats.ledger.propose()
    answer = repeats.told(**order)
    assert not answer.done
    assert "search is over" in answer.text
    assert repeats.told(action="pause").done
    assert (sweep.results.root / orders.PAUSED).exists()
    assert repeats.told(action="resume").done
    assert not (sweep.results.root / orders.PAUSED).exists()


def test_a_trial_is_stopped_by_the_scheduler_at_once(sweep: Sweep) -> None:
    trial = Trial("running", stub=True)
    trial.config = {"number": sweep.ledger.propose().number}
    stopped = []

    class Controller:
        def get_live_trials(self) -> set[Trial]:
            return {trial}

        def get_trials(self) -> list[Trial]:
            return []

        def stop_trial(self, trial: Trial) -> None:
            stopped.append(trial)

    scheduler = SteeredScheduler(
        RuledScheduler(
            FIFOScheduler(), must_stop=sweep.ledger.is_over, must_go_on=sweep.ledger.shelter
        ),
        sweep.ledger,
        sweep.steering,
    )
    assert sweep.told(action="stop", trial=0).text == "trial 0 ends with what it has reached"
    for _ in range(2):
        scheduler.choose_trial_to_run(Controller())
    assert stopped == [trial]


def test_no_trial_is_chosen_whose_process_may_be_starting(sweep: Sweep) -> None:
    trials = [Trial("first", stub=True), Trial("second", stub=True)]

    class Controller:
        def get_live_trials(self) -> list[Trial]:
            return trials

        def get_trials(self) -> list[Trial]:
            return trials

    rules = {"must_stop": sweep.ledger.is_over, "must_go_on": sweep.ledger.shelter}
    scheduler = SteeredScheduler(
        RuledScheduler(FIFOScheduler(), **rules), sweep.ledger, sweep.steering
    )
    assert FIFOScheduler().choose_trial_to_run(Controller()) is trials[0]
    assert scheduler.choose_trial_to_run(Controller()) is None
    for trial in trials:
        trial.status = Trial.PAUSED
    assert scheduler.choose_trial_to_run(Controller()) is trials[0]


def test_a_packed_trial_is_stopped_at_its_next_report(sweep: Sweep) -> None:
    trial = Trial("running", stub=True)
    trial.config = {"number": sweep.ledger.propose().number, "door": "a host's"}
    rules = {"must_stop": sweep.ledger.is_over, "must_go_on": sweep.ledger.shelter}
    scheduler = SteeredScheduler(
        RuledScheduler(FIFOScheduler(), **rules), sweep.ledger, sweep.steering
    )
    sweep.told(action="stop", trial=0)
    assert scheduler.on_trial_result(None, trial, _report(1)) == "STOP"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"action": "stop", "trial": 7}, "there is no trial 7 in this sweep"),
        ({"action": "stop", "trial": 0}, "must run to be stopped, but trial 0 does not"),
        ({"action": "resume"}, "must be paused to be resumed"),
        ({"action": "clone", "trial": 0, "changes": {"method.rnak": 3}}, "did you mean rank?"),
        ({"action": "clone", "trial": 0, "changes": {"method.rank": 999999}}, "must be at most"),
        ({"action": "clone", "trial": 0, "warm": True}, "trial 0 has none"),
        (
            {"action": "clone", "trial": 0, "warm": True, "changes": {"method.rank": 8}},
            "a warm clone may change train.learning_rate",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason_and_changes_nothing(
    sweep: Sweep, order: dict[str, Any], message: str
) -> None:
    sweep.ledger.propose()
    sweep.ledger.finish(0, State.FAILED, "on purpose")
    before = copy.deepcopy(sweep.study().trials)
    answer = sweep.told(**order)
    assert not answer.done
    assert message in answer.text
    assert sweep.study().trials == before


def test_what_ray_tune_is_given_can_be_pickled_as_it_does(sweep: Sweep) -> None:
    rules = {"must_stop": sweep.ledger.is_over, "must_go_on": sweep.ledger.shelter}
    inner = RuledScheduler(FIFOScheduler(), **rules)
    pickle.dumps(SteeredScheduler(inner, sweep.ledger, sweep.steering))
    pickle.dumps(LedgerSearcher(sweep.ledger, sweep.steering, lambda trial_id, params: {}))


def test_an_order_that_nobody_takes_is_taken_back(tmp_path: Path) -> None:
    name = orders.send(tmp_path, Order(action="pause"))
    assert orders.await_answer(tmp_path, name, timeout_s=9, is_running=lambda: False) is None
    assert orders.take(tmp_path) == []


def test_a_warm_clone_goes_on_from_the_others_checkpoint(sweep: Sweep) -> None:
    sweep.ledger.propose()
    sweep.report(0, 1)
    sweep.report(0, 2)
    checkpoint = sweep.results.trial("0000") / "checkpoint"
    (checkpoint / "state/step-000001").mkdir(parents=True)
    files.write_json(checkpoint / "index.json", {"state": "state/step-000001", "adapters": []})
    answer = sweep.told(action="clone", trial=0, warm=True, changes={"train.learning_rate": 1e-3})
    assert answer.text.endswith("from step 1")
    assert (sweep.results.trial("0001") / "checkpoint/state/step-000001").is_dir()
    assert sweep.study().trials[1].intermediate_values == {1: 1.0}
