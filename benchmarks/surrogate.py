"""Best score against budget: our bridge, Ray's OptunaSearch and random search on one surrogate.

    python benchmarks/surrogate.py                      # 20 seeds, a few minutes on one core
    python benchmarks/surrogate.py --seeds 3 --out /tmp/try

No model is trained: an analytic curve stands for a fine-tuning run, with methods that have settings
of their own, slow starters, divergence, overfitting, a limit of memory and noise. A trial is worth
its best evaluation, whose adapter is kept, for every arm. What proposes and what stops are the real
objects (our `Ledger`, `LedgerSearcher` and `LedgerCallback`, Ray's `OptunaSearch`, Ray's ASHA),
driven through Ray Tune's own interfaces by a simulated clock, with 8 trials at a time.

Writes `surrogate.md` (tables) and `surrogate.svg` (plot) into the folder of results.
"""

from __future__ import annotations

import argparse
import heapq
import io
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
from plot import line_plot
from pydantic import TypeAdapter
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from raytune_glm.metrics import METRICS
from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search import SearchSettings
from raytune_glm.search.schedulers import STEP, ASHASettings, Contest
from raytune_glm.space import Space, choose
from raytune_glm.trials.bridge import LedgerCallback, LedgerSearcher
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.records import ResultsFolder

METRIC = "eval_loss"
MAX_STEPS = 81
EVAL_EVERY = 9
WORKERS = 8
BUDGET = 40 * MAX_STEPS
"""Steps of a whole sweep: 40 trials that run to their end."""
POINTS = 40
"""Budgets at which the best score is read."""

ASHA = {"name": "asha", "grace_period_steps": EVAL_EVERY, "reduction_factor": 3}
SPACE: dict[str, Any] = {
    "method": {
        "one_of": {
            "lora": {
                "rank": {"int_range": [2, 64], "log": True},
                "alpha": {"choice": [8, 16, 32, 64]},
            },
            "p_tuning_v2": {
                "num_virtual_tokens": {"int_range": [8, 128], "log": True},
                "projection": {"choice": [True, False]},
            },
            "freeze": {"num_trainable_layers": {"int_range": [1, 8]}},
        }
    },
    "train.learning_rate": {"log_range": [1e-5, 1e-1]},
    "train.warmup_ratio": {"range": [0, 0.3]},
    "train.weight_decay": {"range": [0, 0.1]},
}

# Method -> (best loss, best learning rate, steps until 1/e of the way is left).
METHODS = {
    "lora": (0.52, 2e-3, 22.0),
    "p_tuning_v2": (0.50, 1e-2, 32.0),
    "freeze": (0.60, 2e-4, 12.0),
}


MEMORY = {
    "method.rank": 24,
    "method.num_virtual_tokens": 64,
    "method.num_trainable_layers": 5,
}
"""The most of each setting that has room."""


def curve(params: Mapping[str, Any]) -> Callable[[int], float]:
    """The loss over steps of a trial with these values, without noise."""
    name = params["method"]["name"]
    best, best_rate, steps = METHODS[name]
    off = math.log10(params["train.learning_rate"] / best_rate)  # decades from the best rate
    floor = best + 0.22 * off**2 + (0.8 if off > 1 else 0.0)  # over ten times too high: divergence
    if name == "lora":
        floor += 0.03 * math.log2(64 / params["method.rank"])
        floor += 0.01 * abs(math.log2(params["method.alpha"] / 32))
    elif name == "p_tuning_v2":
        floor += 0.03 * math.log2(128 / params["method.num_virtual_tokens"])
        floor += 0.0 if params["method.projection"] else 0.04
    else:
        floor += 0.02 * (8 - params["method.num_trainable_layers"])
    floor += 1.5 * (params["train.warmup_ratio"] - 0.1) ** 2 + 4 * params["train.weight_decay"] ** 2
    scale = steps * 10 ** (-0.4 * min(off, 0.5))
    start = 2.5

    def loss(step: int) -> float:
        learnt = floor + max(0.0, start - floor) * math.exp(-((step / scale) ** 0.8))
        # A few thousand rows are learnt by heart in the end; what learns faster does so sooner.
        return learnt + 0.12 * max(0.0, step / (2.2 * scale) - 1)

    return loss


def fits(params: Mapping[str, Any]) -> bool:
    """Whether a trial has room in memory: more of a method is better until there is none."""
    return all(params.get(path, 0) <= most for path, most in MEMORY.items())


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
        """Trials of the study by their state."""


class Ours:
    """Our ledger between the study and Ray Tune's interfaces."""

    def __init__(self, folder: Path, seed: int, sampler: str, scheduler: dict[str, Any]) -> None:
        settings = SearchSettings.model_validate(
            {
                "space": SPACE,
                "num_trials": 10**6,
                "sampler": {"name": sampler, "seed": seed},
                "scheduler": scheduler,
                "storage": "journal",  # ten times as fast as SQLite for so many trials at once
            }
        )
        self._results = results = ResultsFolder(folder)
        self._ledger = Ledger(results, settings, mode="min")
        self._searcher = LedgerSearcher(
            self._ledger,
            lambda name, params: {"params": params, "folder": str(results.trial(name))},
        )
        console = Console(file=io.StringIO())
        self._callback = LedgerCallback(
            self._ledger,
            Progress(console, settings, mode="min", rows=()),
            DiskBudget(results, None, METRICS[METRIC]),
            on_end=lambda trial_id: None,
        )
        inner = settings.scheduler.build(_contest(self._ledger.replace))
        self.scheduler: TrialScheduler = RuledScheduler(
            inner, must_stop=self._ledger.is_over, must_go_on=self._ledger.shelter
        )

    def propose(self, trial_id: str) -> tuple[Trial, dict[str, Any]]:
        """See `Arm`."""
        config = self._searcher.suggest(trial_id)
        assert config is not None
        trial = _trial(trial_id, config)
        self._callback.on_trial_start(0, [], trial)
        return trial, config["params"]

    def heard(self, trial: Trial, report: dict[str, Any], *, is_stopped: bool) -> None:
        """See `Arm`."""
        result = {**report, "report": report}
        self._callback.on_trial_result(0, [], trial, result)
        if is_stopped:
            trial.update_last_result({**result, "done": True})
            self._callback.on_trial_complete(0, [], trial)

    def out_of_memory(self, trial: Trial) -> None:
        """See `Arm`."""
        result = {"ending": {"state": "INFEASIBLE", "error": "out of memory"}}
        self._callback.on_trial_result(0, [], trial, result)
        trial.update_last_result(result)
        self._callback.on_trial_complete(0, [], trial)

    def states(self) -> Counter[str]:
        """See `Arm`."""
        backend = optuna.storages.journal.JournalFileBackend(str(self._results.journal))
        study = optuna.load_study(
            study_name=self._results.root.name, storage=optuna.storages.JournalStorage(backend)
        )
        return Counter(trial.state.name for trial in study.get_trials())


class Rays:
    """Ray's own OptunaSearch with its default sampler, the space given define-by-run."""

    def __init__(self, seed: int) -> None:
        space = TypeAdapter(Space).validate_python(SPACE)
        self._chosen: dict[str, dict[str, Any]] = {}

        def define(trial: optuna.Trial) -> dict[str, Any]:
            params = choose(space, trial)
            return {"params": params}

        self._search = OptunaSearch(define, metric=METRIC, mode="min", seed=seed)
        settings: Any = ASHASettings.model_validate(ASHA)
        self.scheduler: TrialScheduler = settings.build(_contest(lambda *_: None))

    def propose(self, trial_id: str) -> tuple[Trial, dict[str, Any]]:
        """See `Arm`."""
        config = self._search.suggest(trial_id)
        assert config is not None
        params = config["params"]
        return _trial(trial_id, {"number": int(trial_id)}), params

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
        return Counter(trial.state.name for trial in self._search._ot_study.get_trials())


def _contest(replace: Callable[[int, int], None]) -> Contest:
    return Contest(metric=METRIC, mode="min", unit="steps", longest=MAX_STEPS, replace=replace)


def _trial(trial_id: str, config: dict[str, Any]) -> Trial:
    trial = Trial("surrogate", trial_id=trial_id, stub=True)
    trial.config = config
    return trial


@dataclass
class Sweep:
    """What one simulated sweep came to."""

    best: list[float] = field(default_factory=list)
    """Loss, without noise, of the trial that looks best, at each of `POINTS` budgets."""
    stopped: int = 0
    """Trials that the scheduler stopped before their end."""
    too_large: int = 0
    """Trials that had no room in memory."""
    states: Counter[str] = field(default_factory=Counter)


def simulate(arm: Arm, seed: int) -> Sweep:
    """Run trials until the budget is spent, `WORKERS` of them at a time."""
    rng = random.Random(seed)
    sweep, spent, seen, truth = Sweep(), 0, math.inf, math.inf
    queue: list[tuple[float, int]] = []
    running: dict[int, tuple[Trial, Callable[[int], float] | None, float, int]] = {}
    started = 0
    while spent < BUDGET:
        while len(running) < WORKERS:
            trial, params = arm.propose(f"{started:05d}")
            arm.scheduler.on_trial_add(None, trial)
            speed = rng.uniform(0.8, 1.25)
            running[started] = (trial, curve(params) if fits(params) else None, speed, 0)
            now = queue[0][0] if queue else 0.0
            heapq.heappush(queue, (now + EVAL_EVERY * speed, started))
            started += 1
        now, number = heapq.heappop(queue)
        trial, loss, speed, step = running.pop(number)
        step += EVAL_EVERY
        spent += EVAL_EVERY
        if loss is None:  # it took its place until memory ran out
            sweep.too_large += 1
            arm.scheduler.on_trial_error(None, trial)
            arm.out_of_memory(trial)
            continue
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
            sweep.best.append(min(truth, 2.5))
    sweep.states = arm.states()
    return sweep


FIFO = {"name": "fifo"}
ARMS: dict[str, Callable[[Path, int], Arm]] = {
    "ours, tpe + asha": lambda folder, seed: Ours(folder, seed, "tpe", ASHA),
    "ours, bohb + asha": lambda folder, seed: Ours(folder, seed, "bohb", ASHA),
    "Ray's OptunaSearch + asha": lambda folder, seed: Rays(seed),
    "random + asha": lambda folder, seed: Ours(folder, seed, "random", ASHA),
    "random": lambda folder, seed: Ours(folder, seed, "random", FIFO),
}


def main() -> int:
    """Run every arm over all seeds and write the tables and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, list[Sweep]] = {}
    started = time.monotonic()
    for name, make in ARMS.items():
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(name, []).append(simulate(make(Path(folder) / "s", seed), seed))
            print(f"\r{name}: {seed + 1}/{arguments.seeds} seeds", end="", file=sys.stderr)
        print(f", {time.monotonic() - started:.0f} s", file=sys.stderr)
    text = tables(found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "surrogate.md").write_text(text, encoding="utf-8")
    budgets = [(point + 1) / POINTS for point in range(POINTS)]
    means = {
        name: [statistics.fmean(s.best[point] for s in sweeps) for point in range(POINTS)]
        for name, sweeps in found.items()
    }
    plot = line_plot(
        budgets, means, x_label="share of the budget", y_label="loss of the best trial, mean"
    )
    (arguments.out / "surrogate.svg").write_text(plot, encoding="utf-8")
    print(text)
    return 0


def tables(found: Mapping[str, list[Sweep]]) -> str:
    """The best score at each quarter of the budget, and the states, as Markdown."""
    seeds = len(next(iter(found.values())))
    quarters = [POINTS * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    lines = [
        "# Best score against budget",
        "",
        f"Loss of the trial that looks best, without noise; mean and standard error over {seeds} "
        "seeds; less is better.",
        "",
        "| | 1/4 of the budget | 1/2 | 3/4 | all |",
        "|---|---|---|---|---|",
    ]
    for name, sweeps in found.items():
        cells = []
        for point in quarters:
            values = [sweep.best[point] for sweep in sweeps]
            error = statistics.stdev(values) / math.sqrt(seeds) if seeds > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.4f} ± {error:.4f}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += [
        "",
        "Trials that the scheduler stopped or that had no room, and what the study says of all "
        "trials, all seeds. Ours tells a trial without room as PRUNED with a broken constraint, "
        "which samplers learn from; OptunaSearch as FAIL, which they pass over.",
        "",
        "| | stopped | no room | COMPLETE | PRUNED | FAIL | RUNNING |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sweeps in found.items():
        states = sum((sweep.states for sweep in sweeps), Counter[str]())
        counts = [sum(sweep.stopped for sweep in sweeps)]
        counts.append(sum(sweep.too_large for sweep in sweeps))
        counts += [states[state] for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")]
        lines.append("| " + " | ".join([name, *map(str, counts)]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
