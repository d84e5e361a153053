"""Hold the memory of a pack against arithmetic: one base, and for each trial what it alone needs.

    python benchmarks/pack_memory.py                                   # a small ChatGLM3, this CPU
    python benchmarks/pack_memory.py --device cuda --model chatglm3-6b --precision bf16 \
        --rows 1 --length 1560 --slots 1 8 32 --checkpointing

A trial's adapter takes 16 bytes a weight: 8 for AdamW's moments, and in fp32 4 for itself and 4
for its gradient; in bf16 2 and 2, and 4 for the fp32 copy that AdamW steps. Its activations are
counted: what autograd keeps for the backward pass of one trial, each storage once. K trials take
what is there with the base alone and K times that. Measured beside it: on a GPU the allocator's
peak, on a CPU the process's, with the C library told to return what is freed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from packed_step import load_base, packed_step, run_of
from shipped import ROOT
from ways import environment

from raytune_glm.engine.process import give_freed_memory_back
from raytune_glm.packing.pack import Pack


def main() -> None:
    """Measure, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--quantization", default=None, choices=["int8", "nf4"])
    parser.add_argument("--method", default="lora", choices=["lora", "p_tuning_v2"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--checkpointing", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    give_freed_memory_back()
    base, family = load_base(arguments)
    run = run_of(arguments)
    weights = _bytes(base.parameters()) + _bytes(base.buffers())
    trial = _trial_bytes(base, family, run, arguments)  # what is loaded once is loaded after it
    _forget_peak(arguments.device)
    loaded = _peak(arguments.device)
    print(f"base {weights / 1e6:.0f} MB, in all {loaded / 1e6:.0f} MB")
    rows = []
    for slots in arguments.slots:
        step = packed_step(base, family, run, slots, arguments)
        _forget_peak(arguments.device)
        for _ in range(3):
            step()
        measured = _peak(arguments.device)
        expected = loaded + slots * (trial["state"] + trial["activations"])
        rows.append({"slots": slots, "expected": expected, "measured": measured})
        print(
            f"K={slots:<3} arithmetic {expected / 1e6:8.0f} MB   measured {measured / 1e6:8.0f} MB"
            f"   {100 * (measured / expected - 1):+.1f} %",
            flush=True,
        )
        del step
    kind = arguments.quantization or arguments.precision
    path = ROOT / f"benchmarks/results/pack_memory_{arguments.model}_{kind}.json"
    path.parent.mkdir(exist_ok=True)
    result = {
        "settings": vars(arguments),
        **environment(),
        "base_bytes": weights,
        "loaded_bytes": loaded,
        "trial_bytes": trial,
        "lines": rows,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")


def _trial_bytes(base: Any, family: Any, run: Any, arguments: argparse.Namespace) -> dict[str, int]:
    """What one trial needs beside the base: its state by arithmetic, its activations counted."""
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in base.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pack = Pack(base, family)
    step = packed_step(base, family, run, 1, arguments, pack=pack)
    trained = pack.slots[0].trainable_parameters
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    found = {"state": 16 * trained, "activations": sum(kept.values())}
    print(
        f"a trial: {trained:,} weights, state {found['state'] / 1e6:.1f} MB, "
        f"activations {found['activations'] / 1e6:.1f} MB"
    )
    return found


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def _peak(device: str) -> int:
    """Largest memory since `_forget_peak`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux tells VmHWM of every process")


if __name__ == "__main__":
    main()
