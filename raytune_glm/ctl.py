"""`python -m raytune_glm.ctl results/lora status`: look at a sweep and steer it while it runs.

Works from any shell and any host that sees the results folder. Read next: `trials.orders`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm.command import exit_status
from raytune_glm.errors import ConfigError

if TYPE_CHECKING:
    from raytune_glm.trials.orders import Order

ANSWER_WITHIN_S = 60.0
"""How long to wait for the driver, which looks for orders every second but may be busy."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_args(argv)
    return exit_status(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.ctl", description="Look at a sweep, and steer it while it runs."
    )
    parser.add_argument("folder", type=Path, help="the sweep's results folder")
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("status", help="show its trials, also where it does not run")
    stop = actions.add_parser("stop", help="end a running trial with what it has reached")
    stop.add_argument("trial", type=int, help="its number")
    clone = actions.add_parser("clone", help="begin a trial with another one's values")
    clone.add_argument("trial", type=int, help="the other one's number")
    clone.add_argument("changes", nargs="*", metavar="key.path=value", help="values to change")
    clone.add_argument(
        "--warm", action="store_true", help="go on from the other one's last checkpoint"
    )
    actions.add_parser("pause", help="begin no trial; running ones wait after their next report")
    actions.add_parser("resume", help="go on after a pause")
    add = actions.add_parser("add", help="run more trials than the sweep file says")
    add.add_argument("count", type=int, help="how many more")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from raytune_glm.report.status import HOW_TO_ADD, Status
    from raytune_glm.trials import lock
    from raytune_glm.trials.orders import await_answer, send
    from raytune_glm.trials.stage import Stage

    root: Path = arguments.folder
    if not (root / "sweep.yaml").exists():
        raise ConfigError(
            f"the results folder of a sweep must hold sweep.yaml, but {root} does not: it is "
            "<run.storage>/<run.name>, such as results/lora"
        )
    is_running = lock.is_held(root)
    status = Status.of(root)
    if arguments.action == "status":
        print(status.describe(is_running=is_running))
        return 0
    order = _order(arguments)
    if not is_running:
        raise ConfigError(
            f"a sweep must run to be steered, but none does in {root}: {status.how_to_steer()}"
        )
    if Stage.of(root) is Stage.SCORE:
        raise ConfigError(
            f"a sweep must be searching to be steered, but the one in {root} is scoring saved "
            f"adapters, its last work: let it end; {HOW_TO_ADD}"
        )
    name = send(root, order)
    told = await_answer(
        root, name, timeout_s=ANSWER_WITHIN_S, is_running=lambda: lock.is_held(root)
    )
    if told is None:
        raise ConfigError(
            f"the sweep in {root} must answer within {ANSWER_WITHIN_S:g} s, but did not: its "
            "search is over, or it hangs (see sweep.log there)"
        )
    if not told.done:
        raise ConfigError(told.text)
    print(told.text)
    return 0


def _order(arguments: argparse.Namespace) -> Order:
    from raytune_glm.config.load import parse_override
    from raytune_glm.trials.orders import Order

    if arguments.action == "add" and arguments.count < 1:
        raise ConfigError(f"count must be at least 1, but got {arguments.count}")
    changes = dict(parse_override(text) for text in getattr(arguments, "changes", ()))
    return Order(
        action=arguments.action,
        trial=getattr(arguments, "trial", None),
        changes=changes,
        warm=getattr(arguments, "warm", False),
        count=getattr(arguments, "count", 0),
    )


if __name__ == "__main__":
    sys.exit(main())
