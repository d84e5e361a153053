"""What a pack host is told, by whoever puts it into its inbox. Read next: `runner`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm.config import RunConfig
from raytune_glm.data import Split

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Attach:
    """A trial wants a slot."""

    key: Hashable
    """Names the trial in later messages."""
    run: RunConfig
    folder: Path
    metric: str
    data_cache: Path
    report: Report
    """Told of each evaluation, of what the trial goes on with for want of memory (`retry`), whether
    that takes workers of its own (`needs_workers`), and of its end; must not block."""
    may_leave: bool = False
    """Whether it can go on with workers of its own where only they leave room for it."""


@dataclass(frozen=True, kw_only=True)
class Leave:
    """A trial is to stop where it is."""

    key: Hashable


@dataclass(frozen=True, kw_only=True)
class Score:
    """A saved adapter is to be scored on a base that is loaded already."""

    run: RunConfig
    adapter: Path
    data_cache: Path
    metrics: Sequence[str]
    splits: Sequence[Split]
    answer: Callable[[dict[str, Any]], None]
    """Told `scores`, or `error`."""


@dataclass(frozen=True, kw_only=True)
class Close:
    """The host is no longer needed."""


Message = Attach | Leave | Score | Close
