"""Which variant of a `one_of` the next trial must have, so that each gets its due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raytune_glm.search import SearchSettings
from raytune_glm.search.pairs import variants
from raytune_glm.trials.records import State


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one trial has taken of its variant's due."""

    params: Mapping[str, Any]
    """Its values by dotted path."""
    used: float
    """Of the budget, in its unit."""
    state: State | None
    """How it ended; none: it is running."""


class Dues:
    """Counts what each variant got, and says which is to come next."""

    def __init__(self, search: SearchSettings) -> None:
        """Count for the one `one_of` that a quota or a budget is about, if there is one."""
        self._budget = search.budget.per_variant
        self._quota = search.quota
        found = variants(search.space)
        counts = self._budget or self._quota.trials or self._quota.complete
        self._section = next(iter(found)) if counts and found else None
        self._names = found[self._section] if self._section is not None else []

    def next_variant(self, uses: Iterable[Use]) -> dict[str, str] | None:
        """What the next trial must be.

        Args:
            uses: Every trial of the sweep so far.

        Returns:
            The chooser's name and the variant; empty where any will do; None where every variant
            has used its budget up.
        """
        if self._section is None:
            return {}
        uses = list(uses)
        spent = dict.fromkeys(self._names, 0.0)
        tried = dict.fromkeys(self._names, 0)
        for use in uses:
            name = self._variant(use)
            if name in spent:
                spent[name] += use.used
                # One that failed says nothing about its method.
                tried[name] += use.state is not State.FAILED
        is_open = [n for n in self._names if self._budget is None or spent[n] < self._budget]
        if not is_open:
            return None
        least = max(self._quota.trials, self._quota.complete)
        behind = [name for name in is_open if tried[name] < least]
        if self._budget is None and not behind:
            return {}
        chosen = min(behind or is_open, key=lambda n: (tried[n] if behind else spent[n], tried[n]))
        return {f"{self._section}.name": chosen}

    def must_complete(self, use: Use, others: Iterable[Use]) -> bool:
        """Whether a running trial is needed for its variant's share of complete trials.

        Args:
            use: The trial.
            others: The sweep's other trials; of those running, the ones that are sheltered.
        """
        if not self._quota.complete:
            return False
        name = self._variant(use)
        having = sum(
            self._variant(other) == name and other.state in (None, State.COMPLETE)
            for other in others
        )
        return having < self._quota.complete

    def _variant(self, use: Use) -> str | None:
        assert self._section is not None, "asked only where variants are counted"
        section = use.params.get(self._section)
        return section["name"] if isinstance(section, Mapping) else None
