"""What the ranks of a trial say to each other. In a trial of one process, nothing happens."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Number of this process among the trial's workers, 0 for the first or only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of the trial's workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Add up each value over the ranks, in float64 where the device has it."""
    if world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total]


def max_over_ranks(value: float, device: torch.device) -> float:
    """The largest value among the ranks."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


def gather_lists(items: list[T]) -> list[T]:
    """Every rank's items, rank 0's first, on every rank."""
    if world_size() == 1:
        return items
    gathered: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]
