"""What a sweep's driver is at, written down for whoever looks from another process."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from raytune_glm import files


class Stage(str, Enum):
    """A part of a sweep's work; the later parts begin when the search is over."""

    SEARCH = "search"
    CONFIRM = "confirm"
    """The best trials are trained again under new seeds."""
    SCORE = "score"
    """Saved adapters are scored."""

    def enter(self, root: Path) -> None:
        """Say that the sweep in `root` is at this now."""
        files.write_text(root / _FILE, self.value)

    @classmethod
    def of(cls, root: Path) -> Stage:
        """What the sweep in `root` is at, or was when it ended."""
        try:
            return cls((root / _FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls.SEARCH


_FILE = ".stage"
