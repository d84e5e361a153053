"""Time the products of a model's linears by PyTorch's own fp32 routine, MKL, and by oneDNN, here.

    python benchmarks/linears.py [--threads 2]

Products forward, and backward to the input, of the shapes that tiny-glm and a layer of 1024 have.
A line a product: billions of operations a second each way, and how many times as fast oneDNN is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from shipped import ROOT
from torch import Tensor
from ways import environment

SHAPES = [
    *((tokens, 192, 384) for tokens in (8, 61, 244, 1952)),
    *((1952, 192, 1024), (1952, 512, 192), (512, 1024, 4096), (512, 4096, 1024)),
]
"""Tokens, inputs, outputs."""


def main() -> None:
    """Time, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    print(f"{'tokens x in x out':<20} {'way':<9} {'MKL':>12} {'oneDNN':>12} {'ratio':>6}")
    for tokens, inputs, outputs in SHAPES:
        weight_OI = torch.randn(outputs, inputs)
        for way, weight in (("forward", weight_OI), ("backward", weight_OI.T)):
            given = torch.randn(tokens, weight.shape[1])
            mkl = _seconds(torch.nn.functional.linear, given, weight)
            onednn = _seconds(_by_onednn, given, weight)
            operations = 2e-9 * tokens * inputs * outputs
            row = {
                "tokens": tokens,
                "inputs": inputs,
                "outputs": outputs,
                "way": way,
                "mkl_gflops": operations / mkl,
                "onednn_gflops": operations / onednn,
            }
            rows.append(row)
            print(
                f"{f'{tokens} x {inputs} x {outputs}':<20} {way:<9} {row['mkl_gflops']:7.0f} GF/s"
                f" {row['onednn_gflops']:7.0f} GF/s {mkl / onednn:6.2f}"
            )
    path = ROOT / f"benchmarks/results/linears_{arguments.threads}threads.json"
    result = {"threads": arguments.threads, **environment(), "lines": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")


def _by_onednn(given: Tensor, weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], "")
    return found


def _seconds(multiply: Callable[[Tensor, Tensor], Tensor], given: Tensor, weight: Tensor) -> float:
    """The best of five times."""
    repeats = max(1, int(2e8 / (given.numel() * len(weight))))
    found = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(repeats):
            multiply(given, weight)
        found.append((time.perf_counter() - started) / repeats)
    return min(found[1:])


if __name__ == "__main__":
    main()
