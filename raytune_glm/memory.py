"""Memory of a worker: a limit on it, telling that it did not suffice, and seeing that it is free.

Nothing here knows trials; `ladder` says what follows when memory did not suffice.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import device

log = logging.getLogger(__name__)

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
"""What a failed allocation is told by where there is no class for it: torch on a CPU, cuBLAS and
NCCL, bitsandbytes, the C++ library."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation from every other fault."""
    from torch import OutOfMemoryError

    if isinstance(error, OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(w in str(error) for w in _WORDS)


@contextmanager
def limited(num_bytes: float | None) -> Iterator[None]:
    """Let allocations fail for as long as the block runs, beyond a limit.

    On a GPU the limit is of all that torch's allocator takes of the device, before the block too;
    on a CPU it is of what the process takes beyond what it has already (RLIMIT_DATA).

    Args:
        num_bytes: The limit; none: the device's or the host's own.
    """
    import torch

    if num_bytes is None:
        yield
    elif torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + int(num_bytes), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What the process has taken of what RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux tells VmData of every process")


def peak_bytes(where: device) -> int:
    """Largest memory of this process so far: of the GPU's allocator, or on a CPU all of it."""
    import torch

    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def used_bytes(where: device) -> int:
    """Memory of this process now: of the GPU's allocator, or on a CPU all that is resident."""
    import psutil
    import torch

    if where.type == "cuda":
        return torch.cuda.memory_allocated(where)
    resident: int = psutil.Process().memory_info().rss
    return resident


_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(where: device) -> int:
    """Memory that this process can still have: of the GPU, or of the host and its container."""
    import torch

    if where.type == "cuda":
        kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return torch.cuda.mem_get_info(where)[0] + kept
    return free_host_bytes()


def free_host_bytes() -> int:
    """Memory that this host and its container have left."""
    import psutil

    free: int = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        taken = int((_CGROUP / "memory.current").read_text())
    except OSError:  # no container, or one that does not tell
        return free
    return free if limit == "max" else min(free, int(limit) - taken)


ENOUGH_FREE = 0.9
"""Share of a GPU's memory that is free where nobody is on it: drivers and this process's own
context keep some hundred megabytes."""


def wait_for_free_gpu(
    *,
    timeout_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until the memory of this process's GPU is free, as it is a while after a process died.

    Returns:
        Whether it is; where somebody else keeps it, the log says how much.
    """
    import torch

    end = clock() + timeout_s
    while True:
        free, total = torch.cuda.mem_get_info()
        if free >= ENOUGH_FREE * total:
            return True
        if clock() >= end:
            log.warning(
                "the GPU is not empty: %.1f of %.1f GiB are taken by other processes, which may "
                "leave this trial too little",
                (total - free) / 2**30,
                total / 2**30,
            )
            return False
        sleep(0.5)
