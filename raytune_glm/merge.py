"""`python -m raytune_glm.merge results/lora merged/`: an adapter into its base, for good.

Read next: `tuned`, which finds what was named, and `merging`, which writes.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from raytune_glm.command import add_base_settings, add_model, exit_status, hush_libraries

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    hush_libraries()
    return exit_status(lambda: _merge(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raytune_glm.merge",
        description="Merge what was trained into its base, and write a checkpoint in the base's "
        "own layout that loads wherever the base does.",
    )
    add_model(parser, kinds="or an adapter's")
    parser.add_argument("out", type=Path, help="the folder to write; it must not exist")
    add_base_settings(parser, examples="model.path=/models/chatglm3-6b where it has moved")
    parser.add_argument(
        "--format",
        choices=("hf", "state_dict"),
        default="hf",
        help="hf: the base's layout (default); state_dict: LLaMA's original consolidated.00.pth",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="precision of the written weights (default: as the base's files have them)",
    )
    parser.add_argument(
        "--max-shard-size",
        type=_bytes,
        metavar="SIZE",
        help="largest weight file of --format hf, such as 400MB or 5GB (default: 2GB)",
    )
    return parser


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"a size must be like 400MB or 5GB, but got {text!r}")
    return size


def _merge(arguments: argparse.Namespace) -> int:
    from raytune_glm.errors import ConfigError
    from raytune_glm.tuned import find

    if arguments.format == "state_dict" and arguments.max_shard_size is not None:
        raise ConfigError(
            "--max-shard-size must be left out with --format state_dict, which is one file"
        )
    tuned = find(arguments.model, arguments.settings)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from raytune_glm.merging import check_mergeable, merge

    out: Path = arguments.out
    check_mergeable(tuned, out, arguments.format)
    console = Console(soft_wrap=True)
    console.print(f"merging    {tuned.describe()}", highlight=False, markup=False)
    for note in tuned.notes:
        console.print(f"note       {note}", highlight=False, markup=False)
    if tuned.base.quantization is not None:
        console.print(
            f"note       it was trained on the base in {tuned.base.quantization}, and goes into "
            "the weights of full precision: answers may differ a little",
            highlight=False,
        )
    with Progress(
        "writing", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("", total=None)
        merged = merge(
            tuned,
            out,
            layout=arguments.format,
            precision=arguments.precision,
            max_shard_bytes=arguments.max_shard_size or 2 * _UNITS["GB"],
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(
        f"merged     {merged.changed} of {merged.num_weights} weights changed, "
        f"{merged.num_bytes / 1e6:,.1f} MB in {out}",
        highlight=False,
        markup=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
