"""Orders to a running sweep, and its answers: files in `orders/` of the results folder.

So a sweep can be steered from every host that sees the folder, without a port or a password. An
order is a file that its sender writes whole; the driver takes orders one by one, in the order in
which they came, and answers each by a file of the same name. Read next: `steering`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from raytune_glm import files
from raytune_glm.space import Overrides

PAUSED = ".paused"
"""File in the results folder for as long as the sweep is paused."""


class Order(BaseModel):
    """What somebody wants of a running sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: str
    trial: int | None = None
    """The trial that it is about."""
    changes: Overrides = {}
    """Of a clone: dotted path -> value."""
    warm: bool = False
    """Of a clone: whether it begins with what the trial has learnt."""
    count: int = 0
    """Of more trials: how many."""


class Answer(BaseModel):
    """What became of an order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: bool
    text: str
    """What was done, or why not, for the person who asked."""


def send(root: Path, order: Order) -> str:
    """Leave an order for the driver of the sweep in `root`; give its name."""
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    files.write_json(_orders(root) / f"{name}.json", order.model_dump(mode="json"))
    return name


def await_answer(
    root: Path, name: str, *, timeout_s: float, is_running: Callable[[], bool]
) -> Answer | None:
    """Wait for what became of an order.

    Args:
        root: The results folder.
        name: The order's, as `send` gave it.
        timeout_s: How long to wait.
        is_running: Whether there is somebody to answer.

    Returns:
        The answer; None where none came: the order is taken back then.
    """
    path = _answers(root) / f"{name}.json"
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and (path.exists() or is_running()):
        told = files.read_json(path)
        if told is not None:
            path.unlink(missing_ok=True)
            return Answer.model_validate(told)
        time.sleep(0.1)
    (_orders(root) / f"{name}.json").unlink(missing_ok=True)
    return None


def take(root: Path) -> list[tuple[str, Order]]:
    """The orders that wait, the first that came first, each with its name."""
    found = []
    for path in sorted(_orders(root).glob("[0-9]*.json")):
        told = files.read_json(path)
        if told is not None:  # its sender may have taken it back
            found.append((path.stem, Order.model_validate(told)))
    return found


def answer(root: Path, name: str, told: Answer) -> None:
    """Tell the sender of an order what became of it, and lay the order aside."""
    files.write_json(_answers(root) / f"{name}.json", told.model_dump(mode="json"))
    (_orders(root) / f"{name}.json").unlink(missing_ok=True)


def _orders(root: Path) -> Path:
    return root / "orders"


def _answers(root: Path) -> Path:
    return root / "orders" / "answers"
