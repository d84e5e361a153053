"""Compiling DeepSpeed's operations so that a killed process never keeps a later one waiting.

torch guards a compilation by a file named `lock`, which it deletes at the end and a killed process
leaves behind: whoever compiles the same later waits for ever. Here one process of a host compiles
at a time under a lock of the kernel's, which goes with its holder, in a folder that nothing else
compiles in: a `lock` found there has lost its owner. Read next: `deepspeed`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from raytune_glm.environment import variables

_FOLDER = "TORCH_EXTENSIONS_DIR"
_BATON = "lock"
"""File name of torch's own lock (`torch.utils.cpp_extension`)."""


def compiled_folder() -> Path:
    """Where operations compiled for this host, Python, torch and DeepSpeed are kept.

    Below `TORCH_EXTENSIONS_DIR` if that is set, else in the user's cache. A host has its own, since
    what is compiled for the processor of one may not run on another that shares the home folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"
    root = Path(os.environ.get(_FOLDER, cache))
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    built_by = f"torch{version('torch')}-deepspeed{version('deepspeed')}"
    return root / f"raytune_glm-{platform.node()}-{python}-{built_by}"


@contextmanager
def sole_compiler() -> Iterator[None]:
    """Be the one process of this host that compiles or loads operations; wait for others' turns."""
    folder = compiled_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for baton in folder.glob(f"*/{_BATON}"):
            baton.unlink()
        with variables({_FOLDER: str(folder)}):
            yield
