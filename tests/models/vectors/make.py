"""Make this folder's files: numbers of the oracle that hold no text, so that anyone can run them.

    python tests/models/vectors/make.py ../shared/oracle

Weights are stored in fp16, which loses nothing: those of the fixtures are fp16 numbers. ChatGLM2's
are the base fixture's, ChatGLM's those of the 28-layer one, which is small.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
_TENSORS = ("input_ids", "attention_mask", "position_ids", "labels", "valid", "final_hidden")


def make(oracle: Path, family: str, *, subfolder: str, cases: tuple[str, ...]) -> None:
    """Write a fixture's weights and a few of its cases."""
    source, target = oracle / family / subfolder, HERE / family
    target.mkdir(exist_ok=True)
    weights = load_file(source / "model.safetensors")
    # Worked out by the model, and no fp16 numbers; the tied copy is the embedding once more.
    left_out = [name for name in weights if name.endswith("inv_freq") or name == "lm_head.weight"]
    halves = {name: value.half() for name, value in weights.items() if name not in left_out}
    assert all(torch.equal(value.float(), weights[name]) for name, value in halves.items())
    save_file(halves, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    entries = json.loads((oracle / family / "cases.json").read_text())["cases"]
    tensors = load_file(oracle / family / "cases.safetensors")
    kept = {
        f"{case}/{name}": tensors[f"{case}/{name}"]
        for case in cases
        for name in _TENSORS
        if f"{case}/{name}" in tensors
    }
    save_file(kept, target / "cases.safetensors")
    numbers = {entry["name"]: _numbers(entry) for entry in entries if entry["name"] in cases}
    (target / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


def _numbers(entry: dict) -> dict:
    expect = entry["expect"]
    if entry["kind"] == "generate":
        return {key: entry[key] for key in ("eos_token_id", "pad_token_id", "max_new_tokens")} | {
            "sequences": expect["sequences"]
        }
    norms = {name: statistics["l2"] for name, statistics in expect["grad_stats"].items()}
    return {"loss": expect["loss"], "gradient_l2": norms}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    make(
        root,
        "chatglm2",
        subfolder="",
        cases=("batch_left_pad_labels", "gen_batch_left_pad"),
    )
    make(root, "chatglm", subfolder="layers28", cases=("layers28",))
