"""What this process needs before an engine can be built: device, group, operations, weights.

Read next: `deepspeed`.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from raytune_glm.config.deepspeed_config import deepspeed_config
from raytune_glm.engine.compiling import sole_compiler
from raytune_glm.errors import ResourceError

if TYPE_CHECKING:
    from raytune_glm.config import RunConfig

_BUILDERS = {"cpu_adam": "CPUAdamBuilder", "async_io": "AsyncIOBuilder"}
"""Operation -> the class of `deepspeed.ops.op_builder` that compiles and loads it."""
_NEEDS = {
    "cpu_adam": (
        "deepspeed.offload_optimizer must have DeepSpeed's CPU-Adam",
        "a C++ compiler (g++) and ninja, or write deepspeed.offload_optimizer: none",
    ),
    "async_io": (
        "an offload to nvme must have DeepSpeed's asynchronous input and output",
        "a C++ compiler (g++), ninja and libaio with its headers (Debian: libaio-dev), or offload "
        "to cpu",
    ),
}
"""Operation -> what it is for, and what a host needs to have it."""


def choose_accelerator() -> torch.device:
    """Pick this process's device, and tell DeepSpeed, which would look for one itself at import."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return torch.device("cpu")


def join_process_group() -> None:
    """Use the process group that Ray Train made, or make one of a single process."""
    import deepspeed

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not dist.is_initialized() and "MASTER_ADDR" not in os.environ:
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not in __all__
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
    # DeepSpeed would compile a shared-memory all-reduce for CPUs here. Gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def require_ops(names: Collection[str]) -> None:
    """Look for the libraries that operations of DeepSpeed's need on this host; compile nothing.

    Raises:
        ResourceError: One is missing; the message has what.
    """
    import deepspeed.ops.op_builder as builders

    for name in sorted(names):
        builder = getattr(builders, _BUILDERS[name])()
        if (missing := _missing(builder)) is not None:
            raise _refusal(name, missing)


def load_ops(names: Collection[str]) -> None:
    """Load operations of DeepSpeed's, compiled on this host before if they are not there yet.

    Raises:
        ResourceError: This host cannot have one of them; the message has the reason.
    """
    import deepspeed.ops.op_builder as builders

    for name in sorted(names):
        builder = getattr(builders, _BUILDERS[name])()
        try:
            with sole_compiler():
                builder.load()
        except (RuntimeError, ImportError, OSError) as error:
            raise _refusal(name, _missing(builder) or str(error)) from error


def _missing(builder: Any) -> str | None:
    """What the builder says is missing, which it tells only who asks; None: nothing is."""
    said: list[str] = []
    builder.warning = said.append  # its own keeps the last one alone, which is a hint
    # It keeps the compiler quiet by the descriptor of `sys.stderr`, so that must be the real one.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(sys.__stderr__):
        compatible = builder.is_compatible(verbose=True)
    return None if compatible else next(iter(said), "a library is missing")


def _refusal(name: str, reason: str) -> ResourceError:
    purpose, remedy = _NEEDS[name]
    return ResourceError(
        f"{purpose} ({name}), but it cannot be compiled or loaded on host {os.uname().nodename}: "
        f"{reason.strip().splitlines()[0].rstrip('.')}. Install {remedy}"
    )


@contextmanager
def spreading_weights(run: RunConfig, device: torch.device) -> Iterator[str]:
    """Load a model inside this: under ZeRO-3 no rank then ever holds the whole of it.

    transformers reads weight by weight on the first rank, and DeepSpeed leaves each rank its part.

    Args:
        run: The trial's settings.
        device: The rank's device.

    Yields:
        Where the model is to be loaded to.
    """
    if run.deepspeed.zero_stage < 3:
        yield str(device)
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    join_process_group()
    give_freed_memory_back()
    held = HfDeepSpeedConfig(deepspeed_config(run))
    try:
        yield "cpu"  # DeepSpeed puts each part where it belongs
    finally:
        unset_hf_deepspeed_config()
        del held  # until here: transformers refers to it weakly


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""glibc's numbers for what `mallopt` sets."""


def give_freed_memory_back() -> None:
    """Have the C library return freed blocks of 1 MiB and more to the system at once.

    Left alone, glibc keeps them for later ones that seldom fit: of a model of 547 MB each of two
    workers on a CPU was then seen to hold up to 636 MB, where its half is 273.
    """
    _set_allocator({_M_TRIM_THRESHOLD: 1 << 20, _M_MMAP_THRESHOLD: 1 << 20})


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to 32 MiB, the most it can, for later ones.

    Left alone, glibc gives what a training step frees back to the system, which then has to clear
    it again for the next step: of small steps on a CPU that was seen to be a tenth.
    """
    _set_allocator(
        {_M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20, _M_MMAP_THRESHOLD: 32 << 20}
    )


def _set_allocator(settings: Mapping[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
    if mallopt is not None:
        for setting, value in settings.items():
            mallopt(setting, value)
