"""Running a sweep on Ray Tune: the one file with a `Tuner`. Read next: `bridge`, `trainable`."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_glm.config import SweepConfig, run_of
from raytune_glm.environment import variables, without
from raytune_glm.metrics import METRICS
from raytune_glm.schedulers.ruled import RuledScheduler
from raytune_glm.search.schedulers import Contest
from raytune_glm.signals import handlers_kept
from raytune_glm.space import Overrides
from raytune_glm.trials.bridge import LedgerCallback, LedgerSearcher, remind
from raytune_glm.trials.cluster import TRIAL_RESOURCES, Placement
from raytune_glm.trials.disk import DiskBudget
from raytune_glm.trials.hosts import Hosts
from raytune_glm.trials.ledger import Ledger
from raytune_glm.trials.packed import PackedTrial
from raytune_glm.trials.progress import Progress
from raytune_glm.trials.ramp import Ramp
from raytune_glm.trials.records import ResultsFolder, State
from raytune_glm.trials.scheduling import SteeredScheduler
from raytune_glm.trials.steering import Steering
from raytune_glm.trials.trainable import run_trial

_QUIET_TUNE = {
    # A report may be about something else than the metric: why the trial ends.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ray's own CSV, JSON and TensorBoard files would repeat `metrics.jsonl`.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The study is the state of the sweep; Ray's own snapshots of it are of no use here.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
}
"""Settings that only environment variables reach."""


def run_trials(
    sweep: SweepConfig,
    results: ResultsFolder,
    ledger: Ledger,
    progress: Progress,
    *,
    max_steps: int,
    placement: Placement,
    hosts: Hosts | None,
    overrides_of: Callable[[Overrides], Overrides] = dict,
    confirmed: Path | None = None,
) -> bool:
    """Run what is left of a sweep; returns when it is over, out of time, or interrupted by Ctrl-C.

    Where `search.time_budget_s` is over, running trials end as PRUNED with what they reached.

    Args:
        sweep: The sweep.
        results: Its folder.
        ledger: Proposes the trials and takes what they report.
        progress: The terminal.
        max_steps: Optimizer steps of the longest trial.
        placement: How the trials take up the cluster.
        hosts: The pack hosts, where trials are packed.
        overrides_of: Gives what a trial changes in the run, from its values in the ledger.
        confirmed: Of repeats: the folder of the sweep that they confirm.

    Returns:
        Whether the time budget ended them.
    """
    from ray import tune

    base = run_of(sweep).model_dump(mode="json")
    ray_folder = results.root / "ray"

    def config_of(trial_id: str, params: Overrides) -> dict[str, Any]:
        asked = {
            "base": base,
            "overrides": overrides_of(params),
            "results": str(results.root),
            "folder": str(results.trial(trial_id)),
            "metric": sweep.search.metric,
            "data_cache": str(results.data),
            "resources": placement.per_worker,
            "ray_folder": str(ray_folder),
        }
        if hosts is not None:
            return {"folder": asked["folder"], **hosts.attachment(trial_id, asked)}
        return asked

    def on_end(trial_id: str) -> None:
        if hosts is not None:
            hosts.release(trial_id)

    def on_leave(trial_id: str) -> None:
        assert hosts is not None, "trials without hosts leave none"
        hosts.leave_host(trial_id)

    packs = placement.packs
    ramp = Ramp(0)
    if packs is not None:
        begins_with_few = packs.have_second and not sweep.search.scheduler.stops
        ramp = Ramp(len(packs.hosts), packs.pack_size, begins_with_few=begins_with_few)
    trainable = run_trial if hosts is None else PackedTrial
    metric = METRICS[sweep.search.metric]
    steering = Steering(results, ledger, run_of(sweep), progress, confirmed=confirmed)
    callback = LedgerCallback(
        ledger,
        steering,
        progress,
        DiskBudget(results, sweep.run.disk_budget_gb, metric),
        on_end=on_end,
        on_leave=on_leave,
        ramp=ramp,
        waits=lambda trial_id: hosts is not None and hosts.is_waiting(trial_id),
    )
    room = None if hosts is None else _Room(sweep, ledger, hosts, ramp, progress)
    contest = Contest(
        metric=sweep.search.metric,
        mode=ledger.mode,
        unit=sweep.search.budget.unit,
        longest=sweep.search.budget.per_trial or max_steps,
        replace=ledger.replace,
    )
    scheduler = sweep.search.scheduler.build(contest)
    if sweep.search.scheduler.compares_with_finished:
        remind(scheduler, ledger)
    _import_trackers()
    # It looks for the files of Ray Tune's own loggers, and misses them one by one in `ray.log`.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    started = time.monotonic()
    with variables(_QUIET_TUNE), handlers_kept():
        tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([TRIAL_RESOURCES])),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearcher(
                    ledger,
                    steering,
                    config_of,
                    has_room=lambda: room is None or room.has_more(),
                ),
                scheduler=SteeredScheduler(
                    RuledScheduler(scheduler, must_stop=ledger.is_over, must_go_on=ledger.shelter),
                    ledger,
                    steering,
                    most_kept=0 if hosts is None else placement.max_concurrent,
                    call_off=None if hosts is None else hosts.call_off,
                ),
                num_samples=-1,  # the searcher says when there are no more
                max_concurrent_trials=placement.max_concurrent,
                time_budget_s=sweep.search.time_budget_s,
                reuse_actors=hosts is not None,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(ray_folder),
                callbacks=[callback] if room is None else [callback, room.watch],
                # Hosts save; what Ray Tune would save of a packed trial is empty.
                checkpoint_config=None
                if hosts is None
                else tune.CheckpointConfig(checkpoint_at_end=False),
                stop=callback.brake,
                failure_config=tune.FailureConfig(max_failures=sweep.run.max_failures),
                verbose=0,
            ),
        ).fit()
    seconds = sweep.search.time_budget_s
    out_of_time = seconds is not None and time.monotonic() - started >= seconds
    if out_of_time:
        # Ray Tune stops these without a word to its callbacks.
        for number in list(ledger.live):
            progress.finished(ledger.finish(number, State.PRUNED), [])
    return out_of_time


class _Room:
    """How many trials of a packed sweep may be there at a time."""

    def __init__(
        self, sweep: SweepConfig, ledger: Ledger, hosts: Hosts, ramp: Ramp, progress: Progress
    ) -> None:
        """Ask the hosts how many they take, and `ramp` how many are worth a process."""
        self._needs_all = sweep.search.scheduler.wants_all_at_once
        self._ledger = ledger
        self._hosts = hosts
        self._ramp = ramp
        self.watch = hosts.watch(progress)
        """Looks after the hosts while Ray Tune runs."""

    def has_more(self) -> bool:
        """Say whether a further trial has a place."""
        live = len(self._ledger.live)
        if live >= self.watch.room or self._needs_all:
            return live < self.watch.room
        serving = len(self._hosts.serving)
        return self._ramp.has_room(live, self._ledger.num_left, num_serving=serving)


def _import_trackers() -> None:
    """Import Ray Tune's callbacks for trackers without the trackers.

    It does so to count which of them are used, as none of them is here: a second for mlflow alone.
    """
    with without("comet_ml"), without("mlflow"), without("wandb"):
        importlib.import_module("ray.air.integrations.comet")
        importlib.import_module("ray.air.integrations.mlflow")
        importlib.import_module("ray.air.integrations.wandb")
