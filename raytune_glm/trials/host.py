"""The process of a pack host.

Read next: `raytune_glm.packing.server`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm import files, memory
from raytune_glm.config import RunConfig
from raytune_glm.environment import uncollected, without
from raytune_glm.trials.doors import pace_file
from raytune_glm.trials.occupancy import wait_for_former_workers
from raytune_glm.trials.records import ResultsFolder
from raytune_glm.trials.trainable import hide_unreserved_gpus, log_to

if TYPE_CHECKING:
    from raytune_glm.packing.cpus import SharedCpus
    from raytune_glm.packing.runner import PackRunner

log = logging.getLogger(__name__)

SHORT_PASS_FLOP = 1e10
"""Up to this the forward pass of a micro-batch is short. What it takes whatever is in it is then
much of it; processes share that, threads do not. On two CPUs, two processes of one thread took a
trial 0.74 of what one process of two threads took it, where this was 5e9 (0.11 s a step), and 1.05
where a step took 0.5 s."""

SECOND_CLOSING_SECONDS = 10.0
"""How long a host that closes waits for its second process, which was told to close before it."""


def serve(config: dict[str, Any]) -> None:
    """Be a pack host, in a Ray Train worker, until told to close."""
    import ray.util

    hide_unreserved_gpus(config["resources"])
    door = Path(config["door"])
    second_door = Path(config["second_door"]) if config["second_door"] else None
    log_to(door.with_suffix(".log"))
    if second_door is not None and "has_died" in (files.read_json(second_door) or {}):
        second_door = None  # trials are not sent there again
    if second_door is not None:
        second_door.unlink(missing_ok=True)  # it went with the process before this one
    files.write_json(door, {"pid": os.getpid()})

    if config["follows"]:
        _await_empty_device(config)

    run = RunConfig.model_validate(config["run"])
    with uncollected():
        _import_peft(run)
        import torch

        from raytune_glm.engine.process import choose_accelerator, keep_freed_memory
        from raytune_glm.packing.cpus import SharedCpus
        from raytune_glm.packing.runner import PackRunner

    keep_freed_memory()
    num_cpus = max(1, int(config["resources"]["CPU"]))
    # What has computed with several threads must not be forked.
    torch.set_num_threads(1 if second_door else num_cpus)
    runner = PackRunner(
        choose_accelerator(), pack_size=config["pack_size"], is_forced=config["is_forced"]
    )
    runner.load(run, Path(config["data_cache"]))
    host = _Host(
        runner,
        node=ray.get_runtime_context().get_node_id(),
        ip_address=ray.util.get_node_ip_address(),
        key=config["key"],
    )
    if second_door is None:
        host.receive(door)
    elif runner.pass_flop(run) > SHORT_PASS_FLOP:
        torch.set_num_threads(num_cpus)
        files.write_json(second_door, {"moved": str(door)})
        host.receive(door)
    else:
        with _second_process(host, SharedCpus(num_cpus), door, second_door):
            host.receive(door)


@dataclass(frozen=True)
class _Host:
    runner: PackRunner
    _: KW_ONLY
    node: str
    ip_address: str
    key: bytes

    def receive(self, door: Path) -> None:
        """Take trials in by a door until told to close."""
        from raytune_glm.packing.server import PackServer

        self.runner.tell = lambda pace: files.write_json(pace_file(door), pace.as_json())
        server = PackServer(self.runner, self.ip_address, self.key)
        opened = {"address": server.address, "pid": os.getpid(), "node": self.node}
        files.write_json(door, opened)
        try:
            self.runner.run()
        finally:
            server.close()
            door.unlink(missing_ok=True)


@contextmanager
def _second_process(host: _Host, cpus: SharedCpus, door: Path, second_door: Path) -> Iterator[None]:
    """Have a second process take trials in by a door of its own, which dies with this one.

    Where it dies alone its trials are sent to this one; it cannot be forked again.
    """
    from raytune_glm.trials.fork import Fork

    host.runner.cpus = cpus

    def be_second() -> None:
        log_to(second_door.with_suffix(".log"))
        host.runner.take_second_place()
        host.receive(second_door)

    def send_back() -> None:
        cpus.forget_other()
        files.write_json(second_door, {"moved": str(door), "has_died": True})

    try:
        second = Fork(be_second, on_death=send_back)
    except OSError as error:
        log.warning("there is no second process: %s", error)
        send_back()
        yield
        return
    patience = 0.0
    try:
        yield
        patience = SECOND_CLOSING_SECONDS
    finally:
        second.end(patience)


def _await_empty_device(config: dict[str, Any]) -> None:
    """Wait until the workers that had the device in the meantime are gone, and their memory."""
    results = ResultsFolder(Path(config["results"]))
    wait_for_former_workers(results, trial="", attempt="")
    if config["resources"].get("GPU", 0) == 1:
        memory.wait_for_free_gpu()


def _import_peft(run: RunConfig) -> None:
    """Import PEFT now: it takes seconds, for which the first trial would wait.

    What transformers and PEFT look for and remember as not found is not imported with them:
    bitsandbytes and with it torch's compiler, a second or two, which only a quantized base has a
    use for, and scipy, half a second, which they have for object detection.
    """
    is_quantized = run.model.quantization or run.model.inspect().stored_quantization
    with without("scipy"), nullcontext() if is_quantized else without("bitsandbytes"):
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available()
        is_bnb_4bit_available()
