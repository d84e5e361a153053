"""How two processes share the CPUs of their host."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import pytest
import torch

from raytune_glm.packing.cpus import IDLE_SECONDS, SharedCpus


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def threads_of(cpus: SharedCpus) -> int:
    torch.set_num_threads(1)
    assert cpus.begin() == (torch.get_num_threads() != 1)
    return torch.get_num_threads()


def test_who_trains_alone_has_all_cpus_and_both_have_their_share() -> None:
    first = SharedCpus(5)
    second = copy.copy(first)  # of the same board, as after a fork
    second.take_second_place()
    assert threads_of(first) == 5
    assert threads_of(second) == 2
    assert threads_of(first) == 3
    second.rest()
    assert threads_of(first) == 3, "between two trials nothing changes"
    time.sleep(IDLE_SECONDS)
    assert threads_of(first) == 5
    first.rest()
    time.sleep(IDLE_SECONDS)
    assert threads_of(second) == 5
