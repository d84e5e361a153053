"""What the commands that need no Ray have in common: how they end, and where they compute."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable


def exit_status(run: Callable[[], int]) -> int:
    """Run a command; turn what the user did wrong into one message and status 2."""
    from raytune_glm.errors import UserError

    _hush_libraries()
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1


def _hush_libraries() -> None:
    """Keep off the terminal what libraries tell each other: nobody who runs a command can act."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for name in ("bitsandbytes", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def choose_device(wanted: str | None) -> str:
    """Give the device to compute on: the one that is wanted, else a GPU where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    from raytune_glm.errors import ConfigError

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise ConfigError(
            f"--device must be one of this machine, such as cpu or cuda:0, but got {wanted!r} "
            f"({reason})"
        ) from None
    return wanted
