"""Best score against budget: our bridge, Ray's OptunaSearch and random search on two surrogates.

    python benchmarks/surrogate.py                      # 20 seeds, some minutes on one core
    python benchmarks/surrogate.py --seeds 3 --out /tmp/try

No model is trained: an analytic curve with noise stands for a fine-tuning run (`curves.py`). A
trial is worth its best evaluation, whose adapter is kept, for every arm. What proposes and what
stops are the real objects (our `Ledger`, `LedgerSearcher` and `LedgerCallback`, Ray's
`OptunaSearch`, Ray's ASHA), driven through Ray Tune's own interfaces by a simulated clock, with 8
trials at a time.

Writes a file of tables and a plot for each surrogate into the folder of results. Arms are compared
seed by seed: ours is at least as good as OptunaSearch unless, at a quarter of the budget, the mean
of the differences is behind by more than two of its standard errors. Exits with 1 where it is, or
where our study's states are wrong.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from bridge import Bridge
from curves import START, SURROGATES, Curve, Surrogate
from plot import line_plot
from pydantic import TypeAdapter
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ways import environment

from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search import SearchSettings
from raytune_glm.search.schedulers import STEP, ASHASettings, Contest
from raytune_glm.space import Space, choose

METRIC = "eval_loss"
MAX_STEPS = 81
EVAL_EVERY = 9
WORKERS = 8
BUDGET = 40 * MAX_STEPS
"""Steps of a whole sweep: 40 trials that run to their end."""
POINTS = 40
"""Budgets at which the best score is read."""
QUARTERS = [POINTS * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]

ASHA = {"name": "asha", "grace_period_steps": EVAL_EVERY, "reduction_factor": 3}
FIFO = {"name": "fifo"}

MOST_ERRORS = 2.0
"""Standard errors of the mean difference up to which being behind is chance."""


class Arm(Protocol):
    """Who proposes trials and hears how they go."""

    scheduler: TrialScheduler

    def propose(self, trial_id: str) -> tuple[Trial, dict[str, Any]]:
        """A trial of Ray Tune's, and its values by dotted path."""

    def heard(self, trial: Trial, report: dict[str, Any], *, is_stopped: bool) -> None:
        """A report; and where it `is_stopped`, the trial's end by the scheduler or by itself."""

    def out_of_memory(self, trial: Trial) -> None:
        """The trial had no room."""

    def states(self) -> Counter[str]:
        """Trials of the study by their state; NO_ROOM: one that broke a constraint."""


class Ours:
    """Our ledger between the study and Ray Tune's interfaces."""

    def __init__(
        self, task: Surrogate, folder: Path, seed: int, sampler: str, scheduler: dict[str, Any]
    ) -> None:
        settings = SearchSettings.model_validate(
            {
                "space": task.space,
                "num_trials": 10**6,
                "sampler": {"name": sampler, "seed": seed},
                "scheduler": scheduler,
                "storage": "journal",
            }
        )
        self._bridge = Bridge(folder, settings)
        ledger = self._bridge.ledger
        self.scheduler: TrialScheduler = RuledScheduler(
            settings.scheduler.build(_contest(ledger.replace)),
            must_stop=ledger.is_over,
            must_go_on=ledger.shelter,
        )

    def propose(self, trial_id: str) -> tuple[Trial, dict[str, Any]]:
        """See `Arm`."""
        trial = self._bridge.begin()
        return trial, trial.config["params"]

    def heard(self, trial: Trial, report: dict[str, Any], *, is_stopped: bool) -> None:
        """See `Arm`."""
        self._bridge.report(trial, report)
        if is_stopped:
            self._bridge.end(trial)

    def out_of_memory(self, trial: Trial) -> None:
        """See `Arm`."""
        self._bridge.end(trial, {"state": "INFEASIBLE", "error": "out of memory"})

    def states(self) -> Counter[str]:
        """See `Arm`."""
        return _states(self._bridge.study())


class Rays:
    """Ray's own OptunaSearch with its default sampler, the space given define-by-run."""

    def __init__(self, task: Surrogate, seed: int) -> None:
        space = TypeAdapter(Space).validate_python(task.space)

        def define(trial: optuna.Trial) -> dict[str, Any]:
            return {"params": choose(space, trial)}

        self._search = OptunaSearch(define, metric=METRIC, mode="min", seed=seed)
        settings: Any = ASHASettings.model_validate(ASHA)
        self.scheduler: TrialScheduler = settings.build(_contest(lambda *_: None))

    def propose(self, trial_id: str) -> tuple[Trial, dict[str, Any]]:
        """See `Arm`."""
        config = self._search.suggest(trial_id)
        assert config is not None
        trial = Trial("surrogate", trial_id=trial_id, stub=True)
        trial.config = {"number": int(trial_id)}
        return trial, config["params"]

    def heard(self, trial: Trial, report: dict[str, Any], *, is_stopped: bool) -> None:
        """See `Arm`."""
        result = {**report, "training_iteration": report[STEP] // EVAL_EVERY}
        # As Ray Tune's controller does: a result that stops a trial is told as its end only.
        if is_stopped:
            self._search.on_trial_complete(trial.trial_id, result)
        else:
            self._search.on_trial_result(trial.trial_id, result)

    def out_of_memory(self, trial: Trial) -> None:
        """See `Arm`."""
        self._search.on_trial_complete(trial.trial_id, None, error=True)

    def states(self) -> Counter[str]:
        """See `Arm`."""
        return _states(self._search._ot_study)


def _states(study: optuna.Study) -> Counter[str]:
    return Counter(
        "NO_ROOM" if any(value > 0 for value in trial.constraints.values()) else trial.state.name
        for trial in study.get_trials(deepcopy=False)
    )


def _contest(replace: Callable[[int, int], None]) -> Contest:
    return Contest(metric=METRIC, mode="min", unit="steps", longest=MAX_STEPS, replace=replace)


@dataclass
class Sweep:
    """What one simulated sweep came to."""

    best: list[float] = field(default_factory=list)
    """Loss, without noise, of the trial that looks best, at each of `POINTS` budgets."""
    stopped: int = 0
    """Trials that the scheduler stopped before their end."""
    no_room: int = 0
    """Trials that had no room in memory."""
    states: Counter[str] = field(default_factory=Counter)


def simulate(task: Surrogate, arm: Arm, seed: int) -> Sweep:
    """Run trials until the budget is spent, `WORKERS` of them at a time."""
    rng = random.Random(seed)
    sweep, spent, seen, truth = Sweep(), 0, math.inf, math.inf
    queue: list[tuple[float, int]] = []
    running: dict[int, tuple[Trial, Curve | None, float, int]] = {}
    started = 0
    while spent < BUDGET:
        while len(running) < WORKERS:
            trial, params = arm.propose(f"{started:05d}")
            arm.scheduler.on_trial_add(None, trial)
            speed = rng.uniform(0.8, 1.25)
            running[started] = (trial, task.curve(params) if task.fits(params) else None, speed, 0)
            now = queue[0][0] if queue else 0.0
            heapq.heappush(queue, (now + EVAL_EVERY * speed, started))
            started += 1
        now, number = heapq.heappop(queue)
        trial, loss, speed, step = running.pop(number)
        step += EVAL_EVERY
        spent += EVAL_EVERY
        if loss is None:  # it took its place until memory ran out
            sweep.no_room += 1
            arm.scheduler.on_trial_error(None, trial)
            arm.out_of_memory(trial)
        else:
            value = loss(step) + rng.gauss(0, 0.01)
            if value < seen:
                seen, truth = value, loss(step)
            report = {STEP: step, "total_steps": MAX_STEPS, METRIC: value, "seconds": now}
            decision = arm.scheduler.on_trial_result(None, trial, report)
            is_last = step >= MAX_STEPS
            is_stopped = is_last or decision == TrialScheduler.STOP
            arm.heard(trial, report, is_stopped=is_stopped)
            if is_stopped:
                sweep.stopped += not is_last
                arm.scheduler.on_trial_complete(None, trial, report)
            else:
                running[number] = (trial, loss, speed, step)
                heapq.heappush(queue, (now + EVAL_EVERY * speed, number))
        while len(sweep.best) < POINTS and spent >= BUDGET * (len(sweep.best) + 1) / POINTS:
            sweep.best.append(min(truth, START))
    sweep.states = arm.states()
    return sweep


OURS, RAYS = "ours, forecast + asha", "Ray's OptunaSearch + asha"
ARMS: dict[str, Callable[[Surrogate, Path, int], Arm]] = {
    OURS: lambda task, folder, seed: Ours(task, folder, seed, "forecast", ASHA),
    "ours, tpe + asha": lambda task, folder, seed: Ours(task, folder, seed, "tpe", ASHA),
    RAYS: lambda task, folder, seed: Rays(task, seed),
    "random + asha": lambda task, folder, seed: Ours(task, folder, seed, "random", ASHA),
    "random": lambda task, folder, seed: Ours(task, folder, seed, "random", FIFO),
}


def main() -> int:
    """Run every arm over all seeds and write the tables and the plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="two at least")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--surrogates", nargs="+", choices=SURROGATES, default=list(SURROGATES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, for an error, but got {arguments.seeds}")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    is_good = True
    for name in arguments.surrogates:
        found = _run(name, seeds)
        text = f"# Best score against budget\n\n{_told(name, seeds)}\n\n{tables(found)}"
        (arguments.out / f"surrogate-{name}.md").write_text(text, encoding="utf-8")
        _plot(found, arguments.out / f"surrogate-{name}.svg")
        print(text)
        is_good &= _is_as_good(found) and _is_told(found[OURS])
    return 0 if is_good else 1


def _told(name: str, seeds: range) -> str:
    return (
        f"Surrogate `{name}`: {SURROGATES[name].about}. Seeds {seeds.start} to {seeds.stop - 1}, "
        f"{json.dumps(environment())}.\n\nLoss of the trial that looks best, without noise; mean "
        f"and standard error over {len(seeds)} seeds; less is better. The budget is that of "
        f"{BUDGET // MAX_STEPS} trials that run to their end, {WORKERS} at a time."
    )


def _run(name: str, seeds: range) -> dict[str, list[Sweep]]:
    found: dict[str, list[Sweep]] = {}
    task, started = SURROGATES[name], time.monotonic()
    for arm, make in ARMS.items():
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                made = make(task, Path(folder) / "s", seed)
                found.setdefault(arm, []).append(simulate(task, made, seed))
            print(f"\r{name}, {arm}: seed {seed}", end="", file=sys.stderr)
        print(f", {time.monotonic() - started:.0f} s", file=sys.stderr)
    return found


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean, and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def _best(sweeps: list[Sweep], point: int) -> list[float]:
    return [sweep.best[point] for sweep in sweeps]


def _behind(found: Mapping[str, list[Sweep]], point: int) -> tuple[float, float]:
    """How far ours is behind OptunaSearch on the same seed: mean and standard error."""
    pairs = zip(_best(found[OURS], point), _best(found[RAYS], point), strict=True)
    return _mean([ours - rays for ours, rays in pairs])


def _is_as_good(found: Mapping[str, list[Sweep]]) -> bool:
    """Whether ours is behind OptunaSearch at no quarter, but by chance."""
    return all(mean <= MOST_ERRORS * error for mean, error in (_behind(found, p) for p in QUARTERS))


def _is_told(sweeps: list[Sweep]) -> bool:
    """Whether the studies say what happened."""
    return all(
        (sweep.states["PRUNED"], sweep.states["NO_ROOM"]) == (sweep.stopped, sweep.no_room)
        for sweep in sweeps
    )


def tables(found: Mapping[str, list[Sweep]]) -> str:
    """The best score at each quarter of the budget, and the states, as Markdown."""
    lines = ["| | 1/4 of the budget | 1/2 | 3/4 | all |", "|---|---|---|---|---|"]
    for name, sweeps in found.items():
        means = [_mean(_best(sweeps, point)) for point in QUARTERS]
        cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in means]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    behind = [f"{mean:+.4f} ± {error:.4f}" for mean, error in (_behind(found, p) for p in QUARTERS)]
    lines.append("| " + " | ".join(["difference by seed, see below", *behind]) + " |")
    lines += [
        "",
        f"Difference by seed: {OURS}, less {RAYS} on the same seed; mean and standard error, above "
        "0 where ours is behind. Ours is at least as good unless it is behind by more than "
        f"{MOST_ERRORS:g} standard errors of the difference at a quarter. By this rule it is "
        f"{'at least as good' if _is_as_good(found) else 'behind'} here.",
        "",
        "What happened, and what the study says of it, all seeds. A trial without room is to ours "
        "a broken constraint, which samplers learn from, and to OptunaSearch a FAIL, which they "
        "pass over.",
        "",
        "| | stopped | no room | COMPLETE | PRUNED | constraint | FAIL | RUNNING |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, sweeps in found.items():
        states = sum((sweep.states for sweep in sweeps), Counter[str]())
        counts = [sum(sweep.stopped for sweep in sweeps), sum(sweep.no_room for sweep in sweeps)]
        counts += [states[s] for s in ("COMPLETE", "PRUNED", "NO_ROOM", "FAIL", "RUNNING")]
        lines.append("| " + " | ".join([name, *map(str, counts)]) + " |")
    return "\n".join(lines) + "\n"


def _plot(found: Mapping[str, list[Sweep]], path: Path) -> None:
    budgets = [(point + 1) / POINTS for point in range(POINTS)]
    means = {
        name: [statistics.fmean(_best(sweeps, point)) for point in range(POINTS)]
        for name, sweeps in found.items()
    }
    plot = line_plot(
        budgets, means, x_label="share of the budget", y_label="loss of the best trial, mean"
    )
    path.write_text(plot, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
