"""Which process is meant: its host, its id and when it began.

So a reused id is not taken for the process that had it before; nothing without such a mark is ever
ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class ProcessMark:
    """A process, told apart from every other one of every host."""

    host: str
    pid: int
    created: float
    """When it began, in seconds since 1970, by its own host."""

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessMark:
        """Mark a living process of this host."""
        return cls(host=this_host(), pid=process.pid, created=process.create_time())

    @classmethod
    def of_this(cls) -> ProcessMark:
        """Mark the process that calls."""
        return cls.of(psutil.Process())

    def as_json(self) -> dict[str, Any]:
        """The mark as plain data, which the class takes as keywords."""
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host: of another one nothing can be seen."""
        return self.host == this_host()

    def find(self) -> psutil.Process | None:
        """The process, where it is of this host and still alive."""
        if not self.is_here:
            return None
        try:
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.created) < 1e-3
            return process if is_it and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def kill(self) -> list[psutil.Process]:
        """End it and all that it started, where it is of this host and still alive.

        Returns:
            The processes that were ended.
        """
        process = self.find()
        if process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            return family
        return []


def this_host() -> str:
    """This host and its boot; containers that number processes by themselves are hosts too."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    numbering = Path("/proc/self/ns/pid")
    return "/".join(
        [
            socket.gethostname(),
            boot.read_text().strip() if boot.exists() else "",
            os.readlink(numbering) if numbering.exists() else "",
        ]
    )
