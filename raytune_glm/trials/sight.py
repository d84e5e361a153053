"""On several hosts: whether all of them see the results folder and the model, under one path."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from raytune_glm import files
from raytune_glm.config import RunConfig
from raytune_glm.errors import ResourceError


def require_sight(run: RunConfig, root: Path) -> None:
    """Refuse a cluster with a host that lacks what trials read and write there.

    Args:
        run: The sweep, or a run that is trained alone.
        root: Its results folder.

    Raises:
        ResourceError: A host does not see a folder, or cannot import this package.
    """
    import ray

    hosts = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    if len(hosts) < 2:
        return
    mark = root / f".sight-{uuid.uuid4().hex}"  # a name that no host has from an earlier sweep
    settings = {str(mark): f"run.storage={run.run.storage}"}
    if Path(run.model.path).exists():  # else it is the hub's, and each host fetches it
        settings[run.model.path] = f"model.path={run.model.path}"
    files.write_text(mark, "")
    try:
        unseen = _ask(hosts, list(settings))
    finally:
        mark.unlink()
    refuse_unseen(
        {host: [settings[path] for path in paths] for host, paths in unseen.items() if paths}
    )


def refuse_unseen(unseen: Mapping[str, Sequence[str]]) -> None:
    """Refuse settings whose folders some hosts do not see.

    Args:
        unseen: Host -> such settings, `key.path=value` each; a host that sees all is not in it.

    Raises:
        ResourceError: There is one.
    """
    lines = [
        f"{setting.partition('=')[0]} must be a folder that every host of the cluster sees under "
        f"the same path, but {host} does not see that of {setting}: put it on a disk that they "
        "share, or use one host by run.ray_address=local"
        for host, settings in unseen.items()
        for setting in settings
    ]
    if lines:
        raise ResourceError("\n".join(lines))


def _ask(hosts: Mapping[str, str], paths: Sequence[str]) -> dict[str, list[str]]:
    """Find the paths that each host does not see."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_not_there)
    asked = {
        name: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(host, soft=False)
        ).remote(paths)
        for host, name in hosts.items()
    }
    unseen = {}
    for name, answer in asked.items():
        try:
            unseen[name] = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise ResourceError(
                f"every host of the cluster must have raytune_glm installed, but on {name} a first "
                f"task fails ({str(error).strip().splitlines()[-1]}): install it there, in the "
                "same Python as Ray"
            ) from None
    return unseen


def _not_there(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
