"""Folders that are made once, whoever asks first, and are whole whenever they are there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def build_once(folder: Path, build: Callable[[Path], None]) -> bool:
    """Make a folder unless it is there; of several processes that ask at once, one makes it.

    Args:
        folder: The folder to have. Its parent is made where missing.
        build: Fills the empty folder it is given. If it raises, nothing is left behind.

    Returns:
        Whether this call made the folder.
    """
    if folder.is_dir():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return False
        # The lock is ours, so a half-made folder is of a process that was killed.
        for left in folder.parent.glob(f".{folder.name}.tmp-*"):
            shutil.rmtree(left)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
        try:
            build(temporary)
            for file in temporary.iterdir():
                _sync(file)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(folder.parent)
        return True


def digest(value: Any) -> str:
    """Hash plain data (what JSON can hold) with SHA-256, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Hash a file's content with SHA-256."""
    with path.open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The file stays: removing it would let a third process lock a new file of the same name while
    # a second still waits for the old one.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
