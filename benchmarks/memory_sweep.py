"""A sweep part of whose space has no room in memory: what becomes of those trials, and how many.

    python benchmarks/memory_sweep.py /tmp/memory

Runs a packed sweep over the length of a learnt prefix, up to those that take gigabytes, and bounds
the address space of its pack host (RLIMIT_AS) as soon as that stands, so that allocations really
fail. Then it looks at what the sweep left: it came to its end, the trials without room went down
the whole ladder and are INFEASIBLE, every trial that ran kept its effective batch, and the sampler
proposed the region less often as it learnt. The result is printed and written to `memory.json` in
the folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from shipped import MODEL, data
from ways import environment

from raytune_glm import files

BATCH = 4

SWEEP: dict[str, Any] = {
    "model": {"path": str(MODEL)},
    "data": data(max_length=96, max_source_length=64, max_train_rows=64, max_dev_rows=8),
    "method": {"name": "p_tuning_v2"},
    "train": {
        "max_steps": 3,
        "batch_size": BATCH,
        "micro_batch_size": 2,
        "eval_batch_size": 2,
        "log_every_steps": 1,
        "save_total_limit": 1,
    },
    "search": {
        "metric": "eval_loss",
        "space": {
            "method.num_virtual_tokens": {"int_range": [8, 524288], "log": True},
            "train.learning_rate": {"log_range": [1e-4, 1e-2]},
        },
    },
    "run": {"name": "memory", "ray_address": "local", "execution": "packed", "pack_size": 4},
}


def main() -> int:
    """Run the benchmark; give 0 where all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--room", type=float, default=1e9, help="bytes beyond the loaded base")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tree = json.loads(json.dumps(SWEEP))
    tree["run"]["storage"] = str(folder)
    tree["search"]["num_trials"] = arguments.trials
    (folder / "sweep.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "raytune_glm.sweep", str(folder / "sweep.yaml")],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        door = folder / "memory/ray/hosts/0.json"
        while process.poll() is None and "address" not in (files.read_json(door) or {}):
            time.sleep(0.1)
        if process.poll() is not None:
            sys.exit(f"the sweep ended before its host was up: see {output.name}")
        host = psutil.Process(files.read_json(door)["pid"])
        limit = host.memory_info().vms + int(arguments.room)
        resource.prlimit(host.pid, resource.RLIMIT_AS, (limit, limit))
        print(f"the host, process {host.pid}, has {limit / 1e9:.2f} GB of addresses", flush=True)
        status = process.wait()
    return _judge(folder, status, room=arguments.room)


def _judge(folder: Path, status: int, *, room: float) -> int:
    root = folder / "memory"
    rows = sorted(_lines(root / "trials.jsonl"), key=lambda row: row["number"])
    study = optuna.load_study(study_name="memory", storage=f"sqlite:///{root}/study.db")
    infeasible = [row for row in rows if row["state"] == "INFEASIBLE"]
    ran = [row for row in rows if row["state"] == "COMPLETE"]
    third = len(rows) // 3
    told = {
        "exit_status": status,
        "room_bytes": room,
        "states": {s: sum(r["state"] == s for r in rows) for s in {r["state"] for r in rows}},
        "constraint_in_study": sum(
            trial.constraints.get("memory") == 1.0 for trial in study.get_trials(deepcopy=False)
        ),
        "ladder_of_infeasible": sorted({json.dumps(row["ladder"]) for row in infeasible}),
        "ladder_of_complete": sorted({json.dumps(row["ladder"]) for row in ran}),
        "effective_batches": sorted({_batch(root, row) for row in rows}),
        "shortest_without_room": min((_length(row) for row in infeasible), default=None),
        "longest_with_room": max((_length(row) for row in ran), default=None),
        "infeasible_share": {
            "first third": _share(rows[:third]),
            "second third": _share(rows[third : 2 * third]),
            "last third": _share(rows[2 * third :]),
        },
        "errors": sorted({row["error"].splitlines()[0][:160] for row in infeasible})[:3],
    }
    text = json.dumps({**told, **environment()}, indent=2)
    (folder / "memory.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    shares = told["infeasible_share"]
    good = (
        status == 0
        and set(told["states"]) == {"COMPLETE", "INFEASIBLE"}
        and told["constraint_in_study"] == len(infeasible)
        and all(row["ladder"] for row in infeasible)
        and told["effective_batches"] == [BATCH]
        and shares["last third"] < shares["first third"]
    )
    print("as it should be" if good else "NOT as it should be")
    return 0 if good else 1


def _length(row: dict[str, Any]) -> int:
    length: int = row["params"]["method.num_virtual_tokens"]
    return length


def _share(rows: list[dict[str, Any]]) -> float:
    return round(sum(row["state"] == "INFEASIBLE" for row in rows) / max(1, len(rows)), 3)


def _batch(root: Path, row: dict[str, Any]) -> int:
    """Rows of an optimizer step that a trial ran with, on whatever rung it was in the end."""
    run = yaml.safe_load((root / "trials" / row["id"] / "config.yaml").read_text(encoding="utf-8"))
    train = run["train"]
    micro = row["ladder"].get("train.micro_batch_size", train["micro_batch_size"])
    assert train["batch_size"] % micro == 0, "a rung's micro-batch divides the effective batch"
    size: int = row["ladder"].get("train.batch_size", train["batch_size"])
    return size


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
