"""Readying every host of a cluster before any trial: what DeepSpeed compiles there, once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from raytune_glm.errors import ResourceError
from raytune_glm.trials.trainable import hide_unreserved_gpus


def look_for_libraries(ops: Collection[str]) -> None:
    """Refuse operations whose libraries this host lacks, where Ray will have no other host.

    Raises:
        ResourceError: One is missing.
    """
    from raytune_glm.engine.process import choose_accelerator, require_ops

    choose_accelerator()
    require_ops(ops)


def prepare_hosts(ops: Collection[str], *, per_worker: Mapping[str, float]) -> None:
    """Have every host that may hold a worker compile what trials need of DeepSpeed.

    Args:
        ops: Names of the operations.
        per_worker: What one worker takes. The task takes as much: with a GPU in sight DeepSpeed
            compiles another thing than without.

    Raises:
        ResourceError: A host cannot have one of them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    hosts = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"]
        and all(node["Resources"].get(name, 0) >= amount for name, amount in per_worker.items())
    ]
    task = ray.remote(max_retries=0)(_prepare)
    running = [
        task.options(
            num_cpus=per_worker["CPU"],
            num_gpus=per_worker.get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(host, soft=False),
        ).remote(sorted(ops), dict(per_worker))
        for host in hosts
    ]
    try:
        ray.get(running)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ResourceError):
            raise ResourceError(str(cause)) from None
        raise


def _prepare(ops: list[str], per_worker: dict[str, float]) -> None:
    hide_unreserved_gpus(per_worker)
    from raytune_glm.engine.process import choose_accelerator, load_ops

    choose_accelerator()
    load_ops(ops)
