"""Logging: modules log through `logging.getLogger(__name__)`; a command's `main` configures it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_file(path: Path) -> logging.Handler:
    """Send this package's log records to `path` (appended, UTF-8), and nothing to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger("raytune_glm")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    return handler


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Send what anything in this process prints to `path` (appended), and not to the terminal."""
    with (
        path.open("a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield
