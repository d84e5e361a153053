"""How long a whole sweep takes: packed, solo, the documented way, and one process in a row.

    python benchmarks/makespan.py --trials 8 --ways packed sequential documented solo

Each way is a command of its own, timed from its start to its end, Ray's start and all imports
included. All train the same trials: those that the packed sweep (which always runs first) chose by
random search; tiny-glm, LoRA of rank 4 to 16 on its attention, 40 steps of 4 rows of at most 64
tokens, fp32 (or `--precision bf16`), one evaluation of the loss on dev at the end.

    packed       python -m raytune_glm.sweep, run.execution=packed
    solo         the same with run.execution=solo
    documented   as Ray's documentation has it: Tune, one TorchTrainer a trial, DeepSpeed, PEFT
    sequential   no Ray: one process, the base loaded once, one trial after another (PyTorch, PEFT)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from shipped import ROOT
from ways import environment, sweep_tree

RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Time the ways, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--pack-size", type=int, help="default: what the sweep chooses")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["packed", "sequential"],
        choices=["packed", "solo", "documented", "sequential"],
    )
    arguments = parser.parse_args()
    if arguments.precision != "fp32" and "documented" in arguments.ways:
        parser.error("--precision bf16 has the ways packed, solo and sequential")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        packed = {"execution": "packed"}
        if arguments.pack_size is not None:
            packed["pack_size"] = arguments.pack_size
        rows = [_sweep(folder, "packed", arguments, packed)]
        trials = [json.loads(line) for line in _trials_file(folder, "packed").open()]
        precision = {"model.precision": arguments.precision}
        chosen = [trial["params"] | precision for trial in trials]
        (folder / "trials.json").write_text(json.dumps(chosen))
        for way in arguments.ways:
            if way == "solo":
                rows.append(_sweep(folder, "solo", arguments, {"execution": "solo"}))
            elif way != "packed":
                rows.append(_other(folder, way))
    first = rows[0]["seconds"]
    print(f"{'way':<12} {'seconds':>8} {'to packed':>10} {'best eval_loss':>15}")
    for row in rows:
        ratio = row["seconds"] / first
        print(f"{row['way']:<12} {row['seconds']:8.1f} {ratio:10.2f} {row['best']:15.5f}")
    result = {
        "trials": arguments.trials,
        "pack_size": arguments.pack_size,
        "precision": arguments.precision,
        **environment(),
        "ways": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    suffix = "" if arguments.precision == "fp32" else f"_{arguments.precision}"
    path = RESULTS / f"makespan_{arguments.trials}{suffix}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")


def _trials_file(folder: Path, way: str) -> Path:
    return folder / way / "sweep" / "trials.jsonl"


def _sweep(
    folder: Path, way: str, arguments: argparse.Namespace, run: dict[str, Any]
) -> dict[str, Any]:
    tree = sweep_tree(arguments.trials)
    tree["model"]["precision"] = arguments.precision
    tree["run"] |= {"storage": str(folder / way), **run}
    file = folder / f"{way}.yaml"
    file.write_text(yaml.safe_dump(tree))
    seconds = _timed([sys.executable, "-m", "raytune_glm.sweep", str(file)], folder / f"{way}.log")
    found = [json.loads(line) for line in _trials_file(folder, way).open()]
    best = min(trial["metrics"]["best"]["eval_loss"] for trial in found)
    return {"way": way, "seconds": seconds, "best": best}


def _other(folder: Path, way: str) -> dict[str, Any]:
    output = folder / f"{way}.json"
    script = Path(__file__).with_name("ways.py")
    seconds = _timed(
        [sys.executable, str(script), way, str(folder / "trials.json"), str(output)],
        folder / f"{way}.log",
    )
    return {"way": way, "seconds": seconds, "best": min(json.loads(output.read_text()))}


def _timed(command: list[str], log: Path) -> float:
    torch.set_num_threads(1)
    started = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return seconds


if __name__ == "__main__":
    main()
