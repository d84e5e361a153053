"""Finding a pack host by its door, the file where it writes down its address."""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path

RETRY_SECONDS = 0.05
PATIENCE_SECONDS = 600.0
"""How long to wait for a host that has not come up, or that died and is started again."""


class HostGoneError(Exception):
    """A pack host died more often than `run.max_failures` allows, and does not come back."""


def pace_file(door: Path) -> Path:
    """Where a host writes what it measured, beside its door."""
    return door.with_suffix(".pace.json")


def connect(door: Path, key: bytes, *, patience: float = PATIENCE_SECONDS) -> Connection:
    """Connect to a host once it is there, or to the one that took over from it.

    Args:
        door: The file where the host writes its address.
        key: What the host lets in by.
        patience: Seconds to try.

    Raises:
        ConnectionError: It did not come.
        HostGoneError: It will not come any more.
    """
    give_up_at = time.monotonic() + patience
    while True:
        try:
            found = json.loads(door.read_text(encoding="utf-8"))
            if "error" in found:
                raise HostGoneError(f"the pack host ended: {found['error']}")
            if "moved" in found:
                door = Path(found["moved"])
                continue
            if "address" not in found:
                raise ConnectionError("it is loading its base")
            host, port = found["address"]
            return Client((host, port), authkey=key)
        except (OSError, EOFError) as error:
            if time.monotonic() > give_up_at:
                raise ConnectionError(
                    f"no pack host answered at {door} for {patience:.0f} s ({error}); see its log "
                    "beside that file"
                ) from error
            time.sleep(RETRY_SECONDS)
