"""What the commands have in common: how they end, the words they take, and where they compute."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable

from raytune_glm.signals import sigterm_as_ctrl_c


def exit_status(run: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """Run a command; turn what the user did wrong into one message and status 2.

    Where nobody reads its output any more (`| head -1`), it ends without a word and with status 1.

    Args:
        run: The command's work; gives its exit status.
        interrupted: What to say where Ctrl-C or SIGTERM ends it.
    """
    from raytune_glm.errors import UserError

    # The process ends: what it holds needs no looking through, which takes up to a second.
    atexit.register(gc.freeze)
    try:
        with sigterm_as_ctrl_c():
            status = run()
        sys.stdout.flush()  # here and not at exit, where a closed pipe is out of reach
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # Python flushes what is left at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _reader_is_gone() -> bool:
    """Whether it is the pipe of our output that broke, and none to another process."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def hush_libraries() -> None:
    """Keep off the terminal what libraries tell each other: nobody who runs a command can act."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for name in ("bitsandbytes", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def add_overrides(parser: argparse.ArgumentParser, *, examples: str) -> None:
    """Let a command that trains take settings behind its file."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key.path=value",
        help=f"settings to change, such as {examples}",
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    """Let a command that trains only say what it would do."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the file, the model and the data, print what would be done, start nothing",
    )


def add_model(parser: argparse.ArgumentParser, *, kinds: str) -> None:
    """Let a command take what `tuned.find` finds."""
    parser.add_argument("model", help=f"a sweep's results, a trial's folder, {kinds}")


def add_base_settings(parser: argparse.ArgumentParser, *, examples: str) -> None:
    """Let a command take settings of the base, which `tuned.find` reads."""
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="model.key=value",
        help=f"settings of the base, such as {examples}",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let a command be told where to compute; `choose_device` reads it."""
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")


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
