"""Time a packed training step against a solo one, for growing packs; needs no Ray, no DeepSpeed.

    python benchmarks/packed_step.py                                     # a tiny ChatGLM3, this CPU
    python benchmarks/packed_step.py --device cuda --model chatglm3-6b --precision bf16 \
        --method lora --rows 1 --length 1560 --slots 1 2 4 8 16 32 --checkpointing
    python benchmarks/packed_step.py --device cuda --model chatglm-6b --precision bf16 \
        --quantization nf4 --method p_tuning_v2 --rows 6 --length 200

The solo step is plain PyTorch and PEFT (or this project's prefix) with torch's AdamW on a padded
batch of the same rows; weights are random, of the model's true shape. `--deepspeed` also times the
step of a solo trial of this project, which DeepSpeed takes. The line `oneDNN` is the solo step with
this project's linears, which differ on CPUs alone. A line a pack size: seconds a
pass, seconds a trial's step, how many times as fast as solo a trial is, tokens a second, memory
beyond the base, and the share of the device's bf16 peak where that is known.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shipped import ROOT
from train_step import _PEAK_BF16_FLOPS
from ways import environment

from raytune_glm.config import RunConfig
from raytune_glm.data.collation import collate
from raytune_glm.engine.process import keep_freed_memory
from raytune_glm.models import family_of, load_model, published_config
from raytune_glm.models.linears import speed_up_linears
from raytune_glm.packing.pack import DataRow, Pack
from raytune_glm.packing.slot import twin

_TINY = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "num_layers": 4,
    "padded_vocab_size": 1024,
    "hidden_size": 128,
    "ffn_hidden_size": 344,
    "kv_channels": 32,
    "num_attention_heads": 4,
    "seq_length": 4096,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OWN = {
    "tiny": _TINY,
    "small": {**_TINY, "num_layers": 8, "hidden_size": 256, "ffn_hidden_size": 688},
}
_METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 8},
    "p_tuning_v2": {"name": "p_tuning_v2", "num_virtual_tokens": 16},
}
_GMASK_SOP = [130001, 130004]
"""How a context of ChatGLM-6B ends."""


def main() -> None:
    """Time, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="tiny", help="tiny, small, or the name of a published checkpoint"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--quantization", default=None, choices=["int8", "nf4"])
    parser.add_argument("--method", default="lora", choices=list(_METHODS))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--deepspeed", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    base, family = load_base(arguments)
    run = run_of(arguments)
    before = _memory(arguments.device)
    solo = _time(_solo_step(base, family, run, arguments), arguments)
    rows = [_line("solo", 1, solo, solo, _memory(arguments.device) - before, base, arguments)]
    speed_up_linears(base)  # as this project's own trials have it
    seconds = _time(_solo_step(base, family, run, arguments), arguments)
    memory = _memory(arguments.device) - before
    rows.append(_line("oneDNN", 1, seconds, solo, memory, base, arguments))
    if arguments.deepspeed:
        seconds = _time(_deepspeed_step(base, family, run, arguments), arguments)
        memory = _memory(arguments.device) - before
        rows.append(_line("deepspeed", 1, seconds, solo, memory, base, arguments))
    for slots in arguments.slots:
        try:
            seconds = _time(packed_step(base, family, run, slots, arguments), arguments)
        except torch.OutOfMemoryError:
            print(f"K={slots}: out of memory")
            break
        memory = _memory(arguments.device) - before
        rows.append(_line("packed", slots, seconds, solo, memory, base, arguments))
    _keep(rows, arguments)


def run_of(arguments: argparse.Namespace) -> RunConfig:
    """The settings of every trial."""
    return RunConfig.model_validate(
        {
            "model": {"path": arguments.model},
            "data": {"train": "none.jsonl"},
            "method": _METHODS[arguments.method],
            "train": {
                "max_steps": 10**6,
                "batch_size": arguments.rows,
                "micro_batch_size": arguments.rows,
                "gradient_checkpointing": arguments.checkpointing,
            },
        }
    )


def load_base(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Give a base of random weights, and its family."""
    config = _OWN.get(arguments.model) or published_config(arguments.model)
    assert config is not None, f"{arguments.model} is the name of no published checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(config)))
        base = load_model(
            folder,
            precision=arguments.precision,
            quantization=arguments.quantization,
            device=arguments.device,
            random_weights=True,
        )
    return base, family_of(dict(config))


def _rows(arguments: argparse.Namespace, family: Any) -> list[DataRow]:
    marks = _GMASK_SOP if family.needs_token_ids else []
    source = torch.randint(10, 1000, (arguments.length // 2 - len(marks),)).tolist() + marks
    answer = torch.randint(10, 1000, (arguments.length - len(source),)).tolist()
    row = {"input_ids": source + answer, "labels": [-100] * len(source) + answer}
    return [row] * arguments.rows


def _solo_step(
    base: Any, family: Any, run: RunConfig, arguments: argparse.Namespace
) -> Callable[[], None]:
    model = run.method.apply(twin(base), family)
    model.train()
    if arguments.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    batch = collate(_rows(arguments, family), pad_token_id=0)
    batch = {name: tensor.to(arguments.device) for name, tensor in batch.items()}

    def step() -> None:
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _deepspeed_step(
    base: Any, family: Any, run: RunConfig, arguments: argparse.Namespace
) -> Callable[[], None]:
    from raytune_glm.engine.deepspeed import DeepSpeedEngine
    from raytune_glm.engine.process import choose_accelerator

    choose_accelerator()
    model = run.method.apply(twin(base), family)
    engine = DeepSpeedEngine(model, run, total_steps=10**6)
    batch = collate(_rows(arguments, family), pad_token_id=0)
    labels = int((batch["labels"][:, 1:] != -100).sum())
    return lambda: engine.train_step([batch], num_label_tokens=labels)


def packed_step(
    base: Any,
    family: Any,
    run: RunConfig,
    slots: int,
    arguments: argparse.Namespace,
    *,
    pack: Pack | None = None,
) -> Callable[[], None]:
    """Give what takes a step of so many trials, in a pack of their own or in `pack`."""
    pack = pack or Pack(base, family)
    members = [pack.add(number, run) for number in range(slots)]
    batches = {number: _rows(arguments, family) for number in range(slots)}
    answer = sum(label != -100 for label in batches[0][0]["labels"]) * arguments.rows
    weights = dict.fromkeys(batches, 1 / answer)

    def step() -> None:
        losses = pack.train_pass(batches, loss_weights=weights)
        for number, member in enumerate(members):
            member.step(losses[number], number=0, total_steps=10**6)

    return step


def _time(step: Callable[[], None], arguments: argparse.Namespace) -> float:
    """Median seconds of a step."""
    on_gpu = arguments.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    found = []
    for number in range(arguments.repeats + 2):
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        if number >= 2:
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _line(
    way: str,
    slots: int,
    seconds: float,
    solo: float,
    memory: int,
    base: Any,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    tokens = slots * arguments.rows * arguments.length
    # Forward, and backward through frozen weights: two multiply-adds a weight and token each.
    flops = 4 * base.num_parameters() * tokens
    line = {
        "way": way,
        "slots": slots,
        "seconds_a_pass": seconds,
        "seconds_a_trial_step": seconds / slots,
        "times_solo": solo / (seconds / slots),
        "tokens_per_second": tokens / seconds,
        "memory_bytes": memory,
        "share_of_peak": _share_of_peak(flops / seconds, arguments.device),
    }
    share = "" if line["share_of_peak"] is None else f"{100 * line['share_of_peak']:6.1f} % of peak"
    print(
        f"{way:<9} K={slots:<3} {seconds:9.4f} s a pass {seconds / slots:9.4f} s a trial's step "
        f"{line['times_solo']:6.2f} x solo {tokens / seconds:10.0f} tokens/s "
        f"{memory / 1e6:8.0f} MB {share}",
        flush=True,
    )
    return line


def _share_of_peak(flops_per_second: float, device: str) -> float | None:
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name()
    peaks = [peak for known, peak in _PEAK_BF16_FLOPS.items() if known in name]
    return flops_per_second / peaks[0] if peaks else None


def _keep(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    parts = (arguments.model, arguments.precision, arguments.quantization, arguments.method)
    name = "_".join(str(part) for part in parts if part)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    path = ROOT / f"benchmarks/results/packed_step_{name}_{arguments.rows}x{arguments.length}.json"
    path.parent.mkdir(exist_ok=True)
    result = {"settings": vars(arguments), "device": device, **environment(), "lines": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"kept in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
