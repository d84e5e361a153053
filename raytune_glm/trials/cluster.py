"""The cluster: connecting to it, what a worker needs of it, and how many trials fit at a time."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from raytune_glm.config import RunConfig, SweepConfig
from raytune_glm.config.execution import Execution
from raytune_glm.environment import variables
from raytune_glm.errors import ResourceError
from raytune_glm.log import log_to_file, printing_to
from raytune_glm.search import SearchSettings
from raytune_glm.signals import handlers_kept
from raytune_glm.trials import boot
from raytune_glm.trials.lifeline import hold_on_to_ray

log = logging.getLogger(__name__)

TRIAL_RESOURCES: dict[str, float] = {"memory": 1}
"""What Ray reserves for the process that starts a trial's workers and waits: more than nothing,
which Ray Tune refuses, and nothing that a worker needs (one byte), or waiting trials would starve
workers."""


@dataclass(frozen=True, kw_only=True)
class PackPlacement:
    """How pack hosts take up the cluster."""

    per_host: tuple[Mapping[str, float], ...]
    """What Ray reserves for each host."""
    pack_size: int
    """Most trials on one host, and on its second process together."""
    is_forced: bool
    """Whether so many share a pass whatever is measured."""
    have_second: bool
    """Whether each host may have a second process, to which trials go as to a host. Its number is
    the host's and the count of hosts."""

    @property
    def hosts(self) -> range:
        """The numbers of the hosts."""
        return range(len(self.per_host))

    def second_of(self, host: int) -> int | None:
        """The number of a host's second process, where it may have one."""
        return len(self.per_host) + host if self.have_second else None

    @property
    def numbers(self) -> range:
        """The numbers of the hosts, and of their second processes."""
        return range(len(self.per_host) * (2 if self.have_second else 1))


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the trials of a sweep take up the cluster."""

    per_worker: dict[str, float]
    """What Ray reserves for one worker of a solo trial."""
    num_nodes: int
    max_concurrent: int
    """Most trials at a time."""
    packs: PackPlacement | None = None
    """The pack hosts, where trials are packed."""

    def describe(self) -> str:
        """One line for the terminal."""
        each = " + ".join(f"{amount:g} {name}" for name, amount in self.per_worker.items())
        if self.packs is not None:
            on_each = min(self.packs.pack_size, self.max_concurrent)
            processes = ", in up to two processes" if self.packs.have_second else ""
            return (
                f"{self.num_nodes} node(s), {len(self.packs.per_host)} pack host(s), "
                f"each with room for {on_each} trial(s) at a time{processes}"
            )
        return (
            f"{self.num_nodes} node(s), room for {self.max_concurrent} trial(s) at a time, "
            f"{each} a worker"
        )


def place(
    sweep: SweepConfig,
    *,
    precisions: Collection[str],
    execution: Execution,
    total_parameters: int,
    leave_devices: bool = False,
) -> Placement:
    """Work out how many trials can run at a time on the cluster that is connected.

    Args:
        sweep: The sweep.
        precisions: Every precision that a trial may have.
        execution: Whether, and how, trials share hosts.
        total_parameters: The base's.
        leave_devices: Whether hosts are to make room for trials that need workers of their own.

    Raises:
        ResourceError: Not even one trial fits, or its precision needs a device that is not there.
    """
    import ray

    per_worker = worker_resources(sweep, ray.cluster_resources())
    if "fp16" in precisions and not per_worker.get("GPU"):
        raise ResourceError(
            "model.precision fp16 must have a GPU, since DeepSpeed trains in fp16 on none else, "
            "but workers reserve none: use bf16 or fp32, or a cluster with GPUs"
        )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = max_concurrent_trials(nodes, per_worker=per_worker, num_workers=sweep.run.num_workers)
    packs = None
    if execution != "solo":
        packs = _place_packs(
            sweep,
            nodes,
            per_worker=per_worker,
            execution=execution,
            may_split=total_parameters <= MOST_SPLIT_PARAMETERS and not leave_devices,
        )
        fitting = min(len(packs.per_host) * packs.pack_size, sweep.search.num_trials)
    return Placement(
        per_worker=per_worker,
        num_nodes=len(nodes),
        max_concurrent=min(fitting, sweep.search.max_concurrent or fitting),
        packs=packs,
    )


MOST_SPLIT_PARAMETERS = 100_000_000
"""Of a base whose passes may be short enough for two processes a host; see `host.SHORT_PASS_FLOP`,
which rows of 50 tokens then reach one by one."""


def _place_packs(
    sweep: SweepConfig,
    nodes: Iterable[Mapping[str, float]],
    *,
    per_worker: Mapping[str, float],
    execution: Execution,
    may_split: bool,
) -> PackPlacement:
    hosts = pack_hosts(nodes, per_worker=per_worker)
    size = 1 if execution == "hosted" else pack_size(sweep.search, len(hosts))
    is_users = sweep.run.pack_size is not None
    all_at_once = sweep.search.scheduler.wants_all_at_once
    may_split = may_split and not (all_at_once or is_users or size == 1)
    return PackPlacement(
        per_host=tuple(hosts),
        pack_size=sweep.run.pack_size or size,
        is_forced=is_users or all_at_once,
        have_second=may_split and can_be_halved(hosts),
    )


MOST_PACKED = 8
"""Trials in a pack where the user does not say: more of them gain little on what was measured."""


def pack_size(search: SearchSettings, num_hosts: int) -> int:
    """Choose how many trials share a host.

    All, for a scheduler that works on a population. Else at most `MOST_PACKED`, and half of the
    sweep's at a time where the later half gains by it: proposals learn from the earlier one, or a
    scheduler holds it to that one's scores.
    """
    if search.scheduler.wants_all_at_once:
        return math.ceil(search.num_trials / num_hosts)
    waves = 2 if search.sampler.learns or search.scheduler.stops else 1
    return min(MOST_PACKED, math.ceil(search.num_trials / waves / num_hosts))


def pack_hosts(
    nodes: Iterable[Mapping[str, float]], *, per_worker: Mapping[str, float]
) -> list[dict[str, float]]:
    """Work out the pack hosts of a cluster: one a GPU, or one a node where workers use no GPU.

    A host has all CPUs of its node, or its GPU's share of them: nothing else of the sweep needs any
    while it runs.

    Args:
        nodes: Resources of each living node.
        per_worker: What one worker of a solo trial takes.

    Returns:
        What Ray reserves for each host.
    """
    hosts: list[dict[str, float]] = []
    for node in nodes:
        cpus, gpus = math.floor(node.get("CPU", 0)), math.floor(node.get("GPU", 0))
        if per_worker.get("GPU"):
            hosts += [{"CPU": max(1, cpus // gpus), "GPU": 1.0}] * gpus if gpus else []
        elif cpus:
            hosts.append({"CPU": float(cpus)})
    return hosts


def can_be_halved(hosts: Iterable[Mapping[str, float]]) -> bool:
    """Say whether each host has CPUs for two processes, and no GPU.

    Args:
        hosts: From `pack_hosts`.
    """
    return all(not host.get("GPU") and host["CPU"] >= 2 for host in hosts)


def is_this_host_alone(address: str) -> bool:
    """Say whether `connect` would start a Ray of this host, by the rules that `ray.init` documents.

    A cluster that was started here once and is gone, as after a crash, counts as none; Ray itself
    would go on looking for it for ever.

    Args:
        address: `auto`, `local`, or the address of a cluster.
    """
    if address != "auto":
        return address == "local"
    started = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/ray_current_cluster")
    if os.environ.get("RAY_ADDRESS"):
        return False
    return not (started.exists() and _answers(started.read_text(encoding="utf-8").strip()))


ANSWER_SECONDS = 10.0
"""How long a cluster may take to answer a call before it counts as not there."""


def _answers(address: str) -> bool:
    """Whether somebody listens at `host:port`; taken for granted of an address in another form."""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        return True
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def connect(address: str, *, log_file: Path) -> None:
    """Connect to a Ray cluster, or start a local one.

    Args:
        address: `auto`, `local`, or the address of a cluster.
        log_file: Where to Ray's own words go.

    Raises:
        ResourceError: There is no cluster at that address.
    """
    import ray

    log_to_file(log_file, name="ray")
    starts = is_this_host_alone(address)
    wanted = "local" if starts else None if address == "auto" else address
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if not starts and not _answers(named):
        raise _no_cluster(named, "nobody listens there")
    try:
        starting = _starting_here() if starts else nullcontext()
        with printing_to(log_file), starting, handlers_kept():
            ray.init(wanted, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, str(error)) from None
    if starts:
        hold_on_to_ray()


def leave() -> None:
    """Leave the cluster; of a Ray that was started here, end all processes."""
    import ray
    from ray._private import auto_init_hook

    # A thread that is still in a call of Ray's would have it started once more.
    auto_init_hook.enable_auto_connect = False
    # What still waits for a dashboard that is coming up finds Ray gone, and would say so.
    logging.getLogger("ray._private.services").setLevel(logging.CRITICAL)
    started = list(_processes_of_ray())
    ray.shutdown()
    # Its agents may stay where their raylet was killed before it had ended them.
    for process in started:
        with suppress(psutil.Error):
            process.kill()


def _processes_of_ray() -> Iterator[psutil.Process]:
    """What a Ray that was started here has started in turn, under the names that Ray gives."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()).startswith("ray::"):
                yield process


def _no_cluster(address: str, reason: str) -> ResourceError:
    return ResourceError(
        f"run.ray_address must be a running Ray cluster, but {address!r} does not answer "
        f"({reason}): start one with `ray up cluster.yaml`, or write local"
    )


_LOCAL_SETTINGS = {
    # Ray starts a process a core in advance. None fits a host or a trial, whose processes have
    # settings of their own, and each takes half a second of the cores that the first trial needs.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # A process is at Ray's own 15 only once it has imported Ray: those that start for trials would
    # keep the host, which started before them, from nearly all of two cores until then.
    "RAY_worker_niceness": "0",
}


@contextmanager
def _starting_here() -> Iterator[None]:
    wanted = {name: os.environ.get(name, value) for name, value in _LOCAL_SETTINGS.items()}
    with variables(wanted), _knowing_its_address(), boot.quick():
        yield


@contextmanager
def _knowing_its_address() -> Iterator[None]:
    """Have the processes of a Ray that starts in the block know it from others on this host.

    Where a trial is stopped, a process of Ray Train's gives its devices back. To see the trial gone
    it asks "the" Ray of the host and, in ray 2.60, dies where there are several; the devices then
    stay taken, and the next trial waits for ever. Processes inherit the address that it looks for.
    """
    import ray.util

    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    own = {
        "RAY_GCS_SERVER_PORT": str(port),
        "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}",
    }
    with variables(own):
        yield


def worker_resources(run: RunConfig, cluster: Mapping[str, float]) -> dict[str, float]:
    """What Ray reserves for one worker.

    Args:
        run: The trial's settings.
        cluster: All resources of the cluster, from `ray.cluster_resources()`.
    """
    gpus = run.run.gpus_per_worker
    if gpus is None:
        gpus = 1 if cluster.get("GPU", 0) > 0 else 0
    resources = {"CPU": run.run.cpus_per_worker}
    return {**resources, "GPU": gpus} if gpus else resources


def num_places(nodes: Iterable[Mapping[str, float]], *, per_worker: Mapping[str, float]) -> int:
    """How many workers can be there at the same time, whole ones, each on one node.

    Args:
        nodes: Resources of each living node.
        per_worker: What one worker takes.
    """
    return sum(
        min(_places(name, node.get(name, 0.0), amount) for name, amount in per_worker.items())
        for node in nodes
    )


def _places(name: str, available: float, amount: float) -> int:
    """How many workers a node's amount of one resource is enough for."""
    if name == "GPU" and amount < 1:  # a worker's share of a GPU is of one GPU
        return math.floor(available) * math.floor(1 / amount + 1e-9)
    return math.floor(available / amount + 1e-9)


def max_concurrent_trials(
    nodes: Iterable[Mapping[str, float]], *, per_worker: Mapping[str, float], num_workers: int
) -> int:
    """How many trials can have all their workers at the same time.

    Workers are whole: a node has room for as many as its scarcest resource allows, and what is left
    over on two nodes does not make one more.

    Args:
        nodes: Resources of each living node.
        per_worker: What one worker takes.
        num_workers: Workers of a trial.

    Raises:
        ResourceError: Not even one trial fits.
    """
    nodes = list(nodes)
    places = num_places(nodes, per_worker=per_worker)
    if places < num_workers:
        need = " + ".join(f"{amount:g} {name}" for name, amount in per_worker.items())
        have = ", ".join(
            " + ".join(f"{node.get(name, 0.0):g} {name}" for name in per_worker) for node in nodes
        )
        raise ResourceError(
            f"run.num_workers must fit into the cluster, but num_workers={num_workers} of {need} "
            f"each do not: its {len(nodes)} node(s) have {have}, room for {places}. Lower "
            "run.num_workers or run.cpus_per_worker, or add nodes"
        )
    return places // num_workers
