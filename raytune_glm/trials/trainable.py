"""A solo trial: a Tune trial runs a Ray Train `TorchTrainer`, whose workers run `worker.train`.

A trial that runs out of memory goes down the ladder here: its workers end, which frees all that
they held, and others start on the next rung. This is the one file that knows how reports travel
from a Ray Train worker to Ray Tune. A run that is trained alone (`alone`) starts the same workers
without Ray Tune. Read next: `raytune_glm.worker`.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import ladder
from raytune_glm.config import RunConfig, trial_run, write_trial_file
from raytune_glm.endings import ENDING, NO_ROOM, Ending, read_ending
from raytune_glm.search.schedulers import STEP

if TYPE_CHECKING:
    from ray.train import UserCallback
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.callback import RayTrainCallback


def run_trial(config: dict[str, Any]) -> None:
    """Run one trial to its end; Ray Tune calls it in a process of its own.

    Args:
        config: `base` (the run as written) and `overrides`, beside what `train_down_the_ladder`
            takes.
    """
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    def listener(run: RunConfig) -> UserCallback:
        write_trial_file(run, Path(config["folder"]), metric=config["metric"])
        return TuneReportCallback()

    ending = train_down_the_ladder(
        trial_run(RunConfig.model_validate(config["base"]), config["overrides"]),
        config,
        listener=listener,
        retried=lambda changes: tune.report({"retry": changes}),
    )
    if ending is not None:
        tune.report({"ending": ending})


def train_down_the_ladder(
    chosen: RunConfig,
    config: Mapping[str, Any],
    *,
    listener: Callable[[RunConfig], RayTrainCallback],
    retried: Callable[[dict[str, Any]], None],
) -> Ending | None:
    """Train a run with Ray Train, on a lower rung of the ladder where memory does not suffice.

    Args:
        chosen: The run as it was chosen.
        config: `results` and `folder` (of the run in it), `resources` (of a worker), `metric`,
            `data_cache`, `ray_folder`, `from_step` (at which a copy of another trial began, else
            0): plain data.
        listener: Makes what hears the reports of workers with the settings that it is given, in a
            process of Ray Train's.
        retried: Told of what each rung changes.

    Returns:
        Why the run ended before its last step; None where it came to it, or was stopped.
    """
    folder = Path(config["folder"])
    left = read_ending(folder)
    if left is not None and left["state"] == NO_ROOM:
        (folder / ENDING).unlink()  # the same command was given again: there may be room now
    while True:
        run = ladder.applied(chosen, folder)
        # One that is there already is of an attempt whose end a kill kept from being seen.
        ending = read_ending(folder) or _attempt(run, config, listener(run))
        if ending is None or ending["state"] != "INFEASIBLE":
            return ending
        on_gpu = config["resources"].get("GPU", 0) > 0
        changes = ladder.descend(run, folder, ending["error"], on_gpu=on_gpu)
        if changes is None:
            return ending
        (folder / ENDING).unlink(missing_ok=True)
        retried(changes)


def _attempt(
    run: RunConfig, config: Mapping[str, Any], callback: RayTrainCallback
) -> Ending | None:
    """Train from the last checkpoint with `run`'s settings; None where all went to the end."""
    import ray.train
    from ray.train.torch import TorchTrainer

    folder = Path(config["folder"])
    uses_gpu = config["resources"].get("GPU", 0) > 0
    trainer = TorchTrainer(
        work,
        train_loop_config={
            **config,
            "run": run.model_dump(mode="json"),
            "attempt": uuid.uuid4().hex,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.run.num_workers,
            use_gpu=uses_gpu,
            resources_per_worker=config["resources"],
        ),
        torch_config=_torch_config("nccl" if uses_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=f"trial-{folder.name}",
            storage_path=config["ray_folder"],
            callbacks=[callback],  # type: ignore[list-item]  # Ray's own
            failure_config=ray.train.FailureConfig(max_failures=run.run.max_failures),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        return read_ending(folder) or _ending_of(error)
    return read_ending(folder)


def _ending_of(error: Exception) -> Ending:
    """Tell workers that Ray ended for want of the host's memory from those that failed."""
    import ray

    failures = getattr(error, "worker_failures", {}).values()
    if any(isinstance(failure, ray.exceptions.OutOfMemoryError) for failure in failures):
        return {"state": "INFEASIBLE", "error": f"out of memory: {error}"}
    return {"state": "FAILED", "error": str(error).strip()}


def _torch_config(backend: str) -> TorchConfig:
    """Ray Train's torch set-up, with the network interface chosen before workers meet over it."""
    from ray.train.torch import TorchConfig

    set_up = TorchConfig().backend_cls

    class InterfaceFirst(set_up):  # type: ignore[misc, valid-type]  # Ray's, by its public name
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(choose_network_interface)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return InterfaceFirst

    return Config(backend=backend)


def hide_unreserved_gpus(resources: Mapping[str, float]) -> None:
    """Keep a worker that reserved no GPU off those of its host; Ray itself no longer does."""
    if resources.get("GPU", 0) == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def work(config: dict[str, Any]) -> None:
    """What each worker of a trial does: set its process up, see its device empty, then train."""
    import ray.train

    hide_unreserved_gpus(config["resources"])

    rank = ray.train.get_context().get_world_rank()
    folder = Path(config["folder"])
    log_to(folder / "worker.log" if rank == 0 else folder / f"worker-{rank}.log")

    from raytune_glm.trials.occupancy import enter_device
    from raytune_glm.trials.records import ResultsFolder
    from raytune_glm.worker import train

    def report(told: dict[str, Any]) -> None:
        # What follows when memory did not suffice is for `train_down_the_ladder` to say, from the
        # folder. And a copy of another trial repeats that one's reports, which are not its own.
        is_infeasible = told.get("ending", {}).get("state") == "INFEASIBLE"
        if not is_infeasible and told.get(STEP, math.inf) > config["from_step"]:
            # Whole, for the ledger, beside the fields for Tune's schedulers: Tune adds its own.
            ray.train.report({**told, "report": told})

    whole_gpu = config["resources"].get("GPU", 0) == 1
    results = ResultsFolder(Path(config["results"]))
    enter_device(results, trial=folder.name, attempt=config["attempt"], whole_gpu=whole_gpu)
    train(
        RunConfig.model_validate(config["run"]),
        folder=folder,
        data_cache=Path(config["data_cache"]),
        metric=config["metric"],
        report=report,
    )


def log_to(path: Path) -> None:
    """Have this process log, warnings included, to a file."""
    from raytune_glm.log import log_to_file

    handler = log_to_file(path)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [handler]


def choose_network_interface() -> None:
    """Tell Gloo and NCCL to talk over the interface that holds this node's Ray address.

    Where a host's name resolves to 127.0.0.1 they would choose loopback, and hosts could not meet
    (`connectFullMesh failed`). What the user has set stays.
    """
    import psutil
    import ray.util

    address = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == address for a in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
