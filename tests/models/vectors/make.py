"""Make this folder's files: numbers of the oracle that hold no text, so that anyone can run them.

    python tests/models/vectors/make.py ../shared/oracle

Weights are stored in fp16, which loses nothing: those of the fixtures are fp16 numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent


def make(oracle: Path) -> None:
    """Write the ChatGLM2 fixture's weights and a few of its cases."""
    source, target = oracle / "chatglm2", HERE / "chatglm2"
    target.mkdir(exist_ok=True)
    weights = load_file(source / "model.safetensors")
    del weights["transformer.rotary_pos_emb.inv_freq"]  # the one that is no fp16 number
    halves = {name: value.half() for name, value in weights.items()}
    assert all(torch.equal(halves[name].float(), value) for name, value in weights.items())
    save_file(halves, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    cases = {
        case["name"]: case for case in json.loads((source / "cases.json").read_text())["cases"]
    }
    tensors = load_file(source / "cases.safetensors")
    names = ("input_ids", "attention_mask", "position_ids", "labels", "valid", "final_hidden")
    kept = {
        f"{case}/{name}": tensors[f"{case}/{name}"].contiguous()
        for case in ("batch_left_pad_labels", "batch_train_collator", "gen_batch_left_pad")
        for name in names
        if f"{case}/{name}" in tensors
    }
    save_file(kept, target / "cases.safetensors")
    numbers = {
        "loss": cases["batch_left_pad_labels"]["expect"]["loss"],
        "gradient_l2": {
            name: statistics["l2"]
            for name, statistics in cases["batch_left_pad_labels"]["expect"]["grad_stats"].items()
        },
        "sequences": cases["gen_batch_left_pad"]["expect"]["sequences"],
    }
    (target / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
