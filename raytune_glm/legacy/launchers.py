"""Flags of `deepspeed` and `torchrun`, which started the old tools; Ray starts the workers now."""

from __future__ import annotations

from collections.abc import Mapping

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.table import Flag, Given, Setting

_RAY = "Ray starts the workers and tells each its rank and where the others are"
_HOSTS = (
    "the workers' hosts are those of the Ray cluster: start one there (ray up cluster.yaml), run "
    "this command on it, and write run.num_workers for all hosts together"
)
_DEVICES = (
    "Ray gives each worker a card of its own: name the cards by CUDA_VISIBLE_DEVICES, and their "
    "number by run.num_workers"
)

LAUNCHER_FLAGS: dict[str, Flag] = {
    "num_gpus": Flag(read=int, combined="run.num_workers"),
    "nproc_per_node": Flag(read=int, combined="run.num_workers"),
    "local_rank": Flag(aside=_RAY, bare=True),
    "master_port": Flag(aside=_RAY),
    "master_addr": Flag(aside=_RAY),
    "rdzv_endpoint": Flag(aside=_RAY),
    "rdzv_backend": Flag(aside=_RAY),
    "standalone": Flag(aside=_RAY, bare=True),
    "node_rank": Flag(aside=_RAY),
    "nnodes": Flag(read=int, refused=_HOSTS, harmless=(1,)),
    "num_nodes": Flag(read=int, refused=_HOSTS, harmless=(1,)),
    "hostfile": Flag(refused=_HOSTS),
    "include": Flag(refused=_DEVICES),
    "exclude": Flag(refused=_DEVICES),
}
"""What stood between the launcher's name and the script's."""


def refuse_launcher(environment: Mapping[str, str]) -> None:
    """Refuse to be started several times over by `torchrun` or `deepspeed`.

    Raises:
        ConfigError: It was.
    """
    world_size = environment.get("WORLD_SIZE", "1")
    if "RANK" in environment and world_size != "1":
        raise ConfigError(
            "an old command must be started once, without torchrun or deepspeed, but WORLD_SIZE="
            f"{world_size}: write python -m raytune_glm.train --num_gpus {world_size} before its "
            "flags, and Ray starts the workers"
        )


def workers(given: Given, *, takes_visible_devices: bool) -> Setting:
    """How many workers the launcher would have started.

    Args:
        given: The command.
        takes_visible_devices: Whether the old launcher started one for every card that it saw.
    """
    for name in ("num_gpus", "nproc_per_node"):
        if given.written.get(name) is not None:
            return Setting(path="run.num_workers", value=given[name], source=f"--{name}")
    visible = given.environment.get("CUDA_VISIBLE_DEVICES", "")
    if takes_visible_devices and visible.strip():
        return Setting(
            path="run.num_workers",
            value=len(visible.split(",")),
            source=f"CUDA_VISIBLE_DEVICES={visible}",
        )
    return Setting(
        path="run.num_workers",
        value=1,
        source="one card; for several, give --num_gpus N or run.num_workers=N",
    )
