"""Logging: modules log through `logging.getLogger(__name__)`; a command's `main` configures it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_file(path: Path, *, name: str = "raytune_glm") -> logging.Handler:
    """Send a package's log records to `path` (appended, UTF-8), and nothing to the terminal.

    Args:
        path: The file; its folder is made where missing.
        name: The package's logger.

    Returns:
        The handler, to add to further loggers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logger = logging.getLogger(name)
    for other in list(logger.handlers):
        logger.removeHandler(other)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
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
