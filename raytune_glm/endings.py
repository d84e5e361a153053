"""Why a trial ends before its last step, told by the error that ended it.

One place for every way of running trials: a worker of its own (`worker`), a slot in a pack
(`packing.runner`), and whoever starts workers and finds what they left (`trials.trainable`).
"""

from __future__ import annotations

import traceback
from pathlib import Path

from raytune_glm import files, memory
from raytune_glm.errors import NoEffectError, NonFiniteLossError, UserError, ZeroLossError

Ending = dict[str, str]
"""`state`, and `error` or `note`: what a last report tells as its `ending`."""

ENDING = "ending.json"
"""File in a trial's folder that tells why it ended, where that could not be reported."""
NO_ROOM = "NO_ROOM"
"""State of an ending that is none: the trial goes on once its disk has room again."""


def ending_of(error: BaseException) -> Ending | None:
    """Say how a trial ends by an error; None for one that nobody expected.

    Args:
        error: What the trial's own training, evaluation or saving raised.

    Returns:
        FAILED for training that came to nothing, NO_ROOM for a full disk, INFEASIBLE for memory
        that does not suffice.
    """
    if isinstance(error, NonFiniteLossError | ZeroLossError | NoEffectError):
        return {"state": "FAILED", "error": str(error)}
    if files.lacks_room(error):
        return {"state": NO_ROOM, "error": str(error)}
    if memory.is_out_of_memory(error):
        return {"state": "INFEASIBLE", "error": f"out of memory: {error}"}
    return None


def ending_by(error: BaseException) -> Ending:
    """As `ending_of`, and FAILED for all else: a user's fault by its message, others traced."""
    known = ending_of(error)
    if known is not None:
        return known
    is_users = isinstance(error, UserError)
    text = str(error) if is_users else "".join(traceback.format_exception(error)).strip()
    return {"state": "FAILED", "error": text}


def read_ending(folder: Path) -> Ending | None:
    """What a worker that ran out of memory or disk left in the trial's folder."""
    ending: Ending | None = files.read_json(folder / ENDING)
    return ending
