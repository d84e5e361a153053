"""Files that are the old one or the new one, whole, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raytune_glm.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and put it in `path`'s place at the end.

    The data is on disk (fsync) before the rename. If the block raises, `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes a private file; give it what a plainly opened file would have had.
        temporary.chmod(_plain_mode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """See whether something can be made in a folder, which need not be there yet itself.

    Raises:
        OSError: It cannot; nothing is left either way.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    with tempfile.TemporaryDirectory(prefix=".writable.", dir=there):
        pass


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path` to fill, and give it `path`'s name at the end.

    Its files are on disk (fsync) before the rename, so a folder called `path` is whole. If the
    block raises, nothing is left; what a kill leaves is hidden, and the next call clears it away.

    Raises:
        ConfigError: `path` exists, cannot be made, or another process is making it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {path} cannot be made: {error.strerror}") from None
    held = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is writing {path}: wait for it") from None
        for left in partial.iterdir():
            left.unlink()
        try:
            yield partial
            for file in partial.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.chmod(_plain_mode())  # safetensors writes private files
            if path.exists():
                raise ConfigError(f"{path} must not exist, but was made meanwhile: name another")
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(held)


def _plain_mode() -> int:
    """The permissions of a plainly opened file."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value of a file that `write_json` wrote; None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def append_line(path: Path, value: Any) -> None:
    """Append `value` to `path` as a line of JSON, in one write, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    data = line.encode()
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[Any]:
    """The values of a file that `append_line` wrote; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_SAID = ("no space left", "quota exceeded", "file too large")
_TORCH_CANNOT_WRITE = ("inline_container.cc", "PytorchStreamWriter")
"""In what torch says when a file that it saves to cannot be written, whatever the reason."""


def lacks_room(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, a disk or a quota that has no more room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        text = str(error)
        if any(words in text for words in _TORCH_CANNOT_WRITE):
            return True
        if any(words in text.lower() for words in _NO_ROOM_SAID):
            return True
        error = error.__cause__ or error.__context__
    return False


def bytes_below(folder: Path) -> int:
    """Bytes of the files in a folder and below, those left out that go while one counts."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                total += path.stat().st_size
    return total
