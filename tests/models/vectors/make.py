"""Make this folder's files: numbers of the oracle that hold no text, so that anyone can run them.

    python tests/models/vectors/make.py ../shared/oracle

Weights are stored in fp16, which loses nothing: those of the fixtures are fp16 numbers. ChatGLM2
and ChatGLM3 have the base fixture's; ChatGLM has the 28-layer one, which is small, and the base one
under `chatglm_base`. Each base has its two P-Tuning prefixes; ChatGLM2 also has one linear as the
published quantised checkpoints pack it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
_TENSORS = ("input_ids", "attention_mask", "position_ids", "labels", "valid", "final_hidden")


def make(
    oracle: Path, family: str, target: Path, *, cases: tuple[str, ...], subfolder: str = ""
) -> None:
    """Write a fixture's weights and a few of its cases."""
    source = oracle / family / subfolder
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


def make_prefixes(oracle: Path, family: str, target: Path, *, case: str) -> None:
    """Write both P-Tuning prefixes and what the model gives behind each for a base case's rows."""
    tensors = load_file(oracle / family / "cases.safetensors")
    entries = json.loads((oracle / family / "cases.json").read_text())["cases"]
    numbers = {}
    for variant in ("ptuning_projection", "ptuning_embedding"):
        name = f"{variant}/{case}"
        entry = next(entry for entry in entries if entry["name"] == name)
        numbers[variant] = {"loss": entry["expect"]["loss"], **entry["config_overrides"]}
        for key in ("input_ids", "attention_mask", "position_ids", "labels"):
            if f"{case}/{key}" in tensors:
                assert torch.equal(tensors[f"{name}/{key}"], tensors[f"{case}/{key}"]), key
        weights = load_file(oracle / family / f"{variant}.safetensors")
        hidden = {"final_hidden": tensors[entry["expect"]["final_hidden"]]}
        save_file({**weights, **hidden}, target / f"{variant}.safetensors")
    (target / "prefixes.json").write_text(json.dumps(numbers, indent=1) + "\n")


def make_packed(oracle: Path, family: str, *, linear: str) -> None:
    """Write a linear's packed weights, scales and unpacked weights, in 8 and 4 bits."""
    kept = {}
    for num_bits in (8, 4):
        tensors = load_file(oracle / family / f"quant{num_bits}.safetensors")
        kept |= {
            f"int{num_bits}.packed": tensors[f"{linear}.weight"],
            f"int{num_bits}.scale": tensors[f"{linear}.weight_scale"],
            f"int{num_bits}.unpacked": tensors[f"dequantised.{linear}.weight"],
        }
    save_file(kept, HERE / family / "packed.safetensors")


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
    rows = "batch_left_pad_labels"
    for later in ("chatglm2", "chatglm3"):
        make(root, later, HERE / later, cases=(rows, "gen_batch_left_pad"))
        make_prefixes(root, later, HERE / later, case=rows)
    make(root, "chatglm", HERE / "chatglm", cases=("layers28",), subfolder="layers28")
    make(root, "chatglm", HERE / "chatglm_base", cases=(rows,))
    make_prefixes(root, "chatglm", HERE / "chatglm_base", case=rows)
    make_packed(root, "chatglm2", linear="transformer.encoder.layers.0.self_attention.dense")
