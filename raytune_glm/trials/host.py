"""The process of a pack host, and the trainer of Ray Train's that starts it.

Read next: `raytune_glm.packing.server`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files
from raytune_glm.config import RunConfig
from raytune_glm.processes import ProcessMark
from raytune_glm.trials.pacing import pace_file
from raytune_glm.trials.trainable import hide_unreserved_gpus, log_to

if TYPE_CHECKING:
    from ray.train import UserCallback
    from ray.train.torch import TorchTrainer


def controller_mark(file: Path) -> UserCallback:
    """Have Ray Train's controller write down, once its host died, which process it is itself."""
    from ray.train import UserCallback

    class Mark(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
            files.write_json(file, ProcessMark.of_this().as_json())

    return Mark()


def host_trainer() -> type[TorchTrainer]:
    """Ray Train's trainer without two processes that hosts have no use for.

    One deals out Ray datasets. The other gives devices back where a trainer is killed, and a worker
    group waits until that process is up; hosts end with the sweep, and what they hold with them.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )

    class HostTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
            made = super()._create_default_callbacks()  # type: ignore[misc]  # no public way
            return [callback for callback in made if not isinstance(callback, unused)]

    return HostTrainer


def serve(config: dict[str, Any]) -> None:
    """Be a pack host, in a Ray Train worker, until told to close."""
    import ray.util

    hide_unreserved_gpus(config["resources"])
    door = Path(config["door"])
    log_to(door.with_suffix(".log"))
    files.write_json(door, {"pid": os.getpid()})

    import peft  # noqa: F401  # seconds, for which the first trial would wait
    import torch

    from raytune_glm.engine.process import choose_accelerator, keep_freed_memory
    from raytune_glm.packing.runner import PackRunner
    from raytune_glm.packing.server import PackServer

    torch.set_num_threads(max(1, int(config["resources"].get("CPU", 1))))
    keep_freed_memory()
    runner = PackRunner(
        choose_accelerator(),
        pack_size=config["pack_size"],
        is_forced=config["is_forced"],
        tell=lambda pace: files.write_json(pace_file(door), pace.as_json()),
    )
    server = PackServer(runner, ray.util.get_node_ip_address(), config["key"])
    runner.load(RunConfig.model_validate(config["run"]), Path(config["data_cache"]))
    node = ray.get_runtime_context().get_node_id()
    files.write_json(door, {"address": server.address, "pid": os.getpid(), "node": node})
    try:
        runner.run()
    finally:
        server.close()
        door.unlink(missing_ok=True)
