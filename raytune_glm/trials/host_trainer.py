"""Ray Train's trainer of a pack host, without what a host has no use for.

Ray Train starts a process that looks after the workers, its controller, and asks that one to start
them. A host is one worker that never reports to Ray Train, and its sweep's command is there as long
as it is: the controller runs in a thread of the command, and the host starts seconds earlier.

Read next: `hosts`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.worker_group import WorkerGroup
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

SETTINGS = {
    # Ray Train looks this often whether a worker has ended; its own 2 s are felt at a sweep's end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process each host that watches for machines being taken away, which none survives anyway.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Settings that only environment variables reach; what the user has set stays."""

OWN_SETTINGS = {
    # A controller may set up the logging of a process that it has to itself.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
}
"""The same, whatever the user has set."""

LOOK_EVERY_S = 1.0
"""How often a host that waits for its devices looks whether the wait is given up."""


def host_trainer() -> Callable[..., DataParallelTrainer]:
    """Give the trainer's class, which imports Ray Train.

    A host is one worker, so it needs no process group and hence no torch beside it. Of Ray Train's
    processes one deals out Ray datasets. One gives devices back where a trainer is killed, and a
    worker group waits until it is up; hosts end with the sweep, and what they hold with them. One
    asks for machines, of which a sweep takes those that are there when it begins. What tells Ray's
    state of a run tells its controller's actor, which there is none of.

    Its instances take `given_up` further, an event: a host that waits for its devices waits no
    longer once that is set, and `fit` raises.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.callbacks.state_manager import StateManagerCallback
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class AsItIs(FixedScalingPolicy):
        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    class HostTrainer(DataParallelTrainer):
        def __init__(self, *settings: Any, given_up: threading.Event, **more: Any) -> None:
            super().__init__(*settings, **more)
            self._given_up = given_up

        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback, StateManagerCallback)
            made = super()._create_default_callbacks()
            return [callback for callback in made if not isinstance(callback, unused)]

        def _initialize_and_run_controller(self, **parts: Any) -> Any:
            parts["scaling_policy"] = AsItIs(parts["scaling_policy"].scaling_config)
            controller = _controller_class(self._given_up)(**parts)
            asyncio.run(controller.run())
            return controller.get_result()

    return HostTrainer


def _controller_class(given_up: threading.Event) -> type[TrainController]:
    """Give the class of a controller that is no actor."""
    from ray.exceptions import AsyncioActorExit
    from ray.train.v2._internal.execution.controller import TrainController

    class Controller(TrainController):
        worker_group_cls = _worker_group_class(given_up)

        async def _step(self) -> Any:
            if given_up.is_set():
                raise AsyncioActorExit("the wait for a pack host was given up")
            return await super()._step()

    return Controller


def _worker_group_class(given_up: threading.Event) -> type[WorkerGroup]:
    import ray
    from ray.train.v2._internal.execution.worker_group import WorkerGroup
    from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
        DefaultPlacementGroupHandle,
    )

    class Devices(DefaultPlacementGroupHandle):
        def wait(self, timeout_seconds: float = 30) -> bool:
            for _ in range(max(1, round(timeout_seconds / LOOK_EVERY_S))):
                if given_up.is_set():
                    return False
                if super().wait(LOOK_EVERY_S):
                    return True
            return False

    class Workers(WorkerGroup):
        def _create_placement_group(self, *asked: Any) -> Devices:
            return Devices(super()._create_placement_group(*asked).placement_group)

        def _init_train_context_on_workers(
            self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
        ) -> None:
            # As Ray Train's own, but that no worker has a controller to ask.
            begun = [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[i] for name, values in train_context_args.items()},
                )
                for i, worker in enumerate(workers)
            ]
            ray.get(begun)
            self._decorate_worker_log_file_paths(workers)

    return Workers
