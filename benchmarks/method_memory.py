"""Peak memory of a training step of LoRA, P-Tuning v2 and freeze; needs no Ray, no DeepSpeed.

    python benchmarks/method_memory.py                                   # a tiny model, this CPU
    python benchmarks/method_memory.py --device cuda --model chatglm-6b --model chatglm2-6b \
        --precision bf16

Methods have the settings of ChatGLM-Finetuning's README, the weights are random and of the model's
true shape, and AdamW keeps its weights and moments in fp32, as DeepSpeed does for half precision.
Each case runs in a process of its own, with gradient checkpointing and without, so that nothing of
one is counted for another. On a GPU a figure is what torch's allocator gave out and what it took
from the device, to which a process adds some 0.5 GB; on a CPU the process's, imports included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from raytune_glm.methods import AnyMethod, Freeze, LoRA, PTuningV2
from raytune_glm.models import Family, family_of, load_model, published_config
from raytune_glm.models.folder import read_json

TINY = str(Path(__file__).resolve().parents[1] / "data/tiny-glm")
LENGTH = 1560
"""`max_len` in the README."""
STEPS = 3
"""From the second step on the optimizer's state is there while a gradient is worked out."""
LABELLED_SHARE = (LENGTH - 1024) / LENGTH
"""Share of a row that is answer: `max_src_len` is 1024 there."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table."""

    model: str
    method: str
    checkpointing: bool
    length: int | None
    """Tokens of the one row; none: the README's, or as many as the model can have."""
    device: str
    precision: str


def method_of(name: str, family: Family, num_layers: int) -> AnyMethod:
    """Give a method with the settings of ChatGLM-Finetuning's README (at 232c8e2)."""
    every_linear = family.attention_modules + family.mlp_modules
    targets = ("query_key_value",) if family.name == "chatglm" else every_linear
    methods: dict[str, AnyMethod] = {
        "lora": LoRA(rank=16, alpha=64, dropout=0.1, target_modules=targets),
        "p_tuning_v2": PTuningV2(num_virtual_tokens=16, projection=True),
        "freeze": Freeze(num_trainable_layers=min(4, num_layers)),
    }
    return methods[name]


class Optimizer:
    """AdamW whose weights are in fp32, also where the model's are in half precision."""

    def __init__(self, model: torch.nn.Module) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        copies = [p if p.dtype == torch.float32 else p.detach().float() for p in trained]
        self._pairs = [(p, copy) for p, copy in zip(trained, copies, strict=True) if copy is not p]
        self._adamw = torch.optim.AdamW(copies, lr=1e-4)

    def step(self) -> None:
        """Move the weights, and drop the gradients."""
        for parameter, copy in self._pairs:
            assert parameter.grad is not None
            copy.grad, parameter.grad = parameter.grad.float(), None
        self._adamw.step()
        self._adamw.zero_grad()
        with torch.no_grad():
            for parameter, copy in self._pairs:
                parameter.copy_(copy)


def measure(case: Case) -> dict[str, Any]:
    """Train some steps in this process; give its peak memory in bytes."""
    torch.manual_seed(0)
    config = published_config(case.model) or read_json(Path(case.model), "config.json")
    family = family_of(config)
    shape = family.shape(config)
    method = method_of(case.method, family, shape.num_layers)
    base = load_model(
        case.model,
        precision=case.precision,  # type: ignore[arg-type]  # one of the parser's choices
        device=case.device,
        random_weights=True,
    )
    model: Any = method.apply(base, family).train()
    if case.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = Optimizer(model)
    length = case.length or min(LENGTH, shape.max_length - method.added_tokens(family))
    batch = row(length, shape.vocab_size, family, config, case.device)
    for _ in range(STEPS):
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
    trained = method.trainable_parameters(shape, family)
    return {**asdict(case), "length": length, "trainable": trained, **peak(case.device)}


def row(
    length: int, vocab_size: int, family: Family, config: dict[str, Any], device: str
) -> dict[str, Any]:
    """Draw one row, the end of which carries labels."""
    ids = torch.randint(5, min(vocab_size, 30_000), (1, length))
    start = length - round(length * LABELLED_SHARE)
    if family.needs_token_ids:  # ChatGLM-6B's `[gMASK] <sop>`, which end its context
        ids[0, start - 2], ids[0, start - 1] = config["gmask_token_id"], config["bos_token_id"]
    labels = ids.clone()
    labels[:, :start] = -100
    found = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    return {name: tensor.to(device) for name, tensor in found.items()}


def peak(device: str) -> dict[str, int]:
    """The peak of this process so far, in bytes."""
    if device == "cpu":
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Every line of the table that was asked for."""
    for model, method, checkpointing in product(
        arguments.model or [TINY], arguments.method, (True, False)
    ):
        yield Case(
            model=model,
            method=method,
            checkpointing=checkpointing,
            length=arguments.length,
            device=arguments.device,
            precision=arguments.precision,
        )


def in_a_process(case: Case) -> dict[str, Any]:
    """Measure a case in a process of its own; where it does not fit, say so."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(asdict(case))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured
    return {**asdict(case), "error": done.stderr.strip().splitlines()[-1]}


def main() -> None:
    """Measure each case and write one line of JSON for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model", action="append", help="name of a published checkpoint, or a folder"
    )
    parser.add_argument(
        "--method", nargs="+", default=["lora", "p_tuning_v2", "freeze"], help="default: all three"
    )
    parser.add_argument("--length", type=int, help="tokens of the one row; default: 1560")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(Case(**json.loads(arguments.case)))))
        return
    for case in cases(arguments):
        print(json.dumps(in_a_process(case)), flush=True)


if __name__ == "__main__":
    main()
