"""Time one training step of ours against the published arithmetic written plainly.

    python benchmarks/train_step.py                                      # this CPU, small shapes
    python benchmarks/train_step.py --device cuda --model chatglm3-6b --precision bf16 \
        --shape 1x1560 --shape 6x200 --lora --checkpointing

The plain model does what `modeling_chatglm.py` of THUDM/chatglm3-6b does: an explicit mask,
scores and probabilities written out, keys and values repeated for each query head, logits of
every row in fp32. It runs on our model's own weights, and its loss must be ours before time is
taken. With `--lora` the base is frozen and only ours is timed: tokens a second, peak memory, and,
where the device's peak is known, the share of it that the step reaches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raytune_glm.models import load_model
from raytune_glm.models.chatglm.attention import rotary_tables, rotate_pairs
from raytune_glm.models.chatglm.configuration import ChatGLMConfig
from raytune_glm.models.chatglm.modeling import ChatGLMForConditionalGeneration

_SMALL = {
    "num_layers": 4,
    "padded_vocab_size": 16384,
    "hidden_size": 512,
    "ffn_hidden_size": 1376,
    "kv_channels": 64,
    "num_attention_heads": 8,
    "multi_query_group_num": 2,
    "seq_length": 4096,
}
_LABELLED_SHARE = 0.25
"""Share of a row that is answer; the rest is instruction and input."""
_PEAK_BF16_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 peaks from NVIDIA's data sheets (SXM)."""


def plain_loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Work out the loss of our model's weights as the published code does."""
    config, core = model.config, model.transformer
    length = input_ids.shape[1]
    hidden = core.embedding(input_ids)
    hidden_mask = torch.ones(
        len(input_ids), 1, length, length, dtype=torch.bool, device=hidden.device
    ).triu(diagonal=1)
    rotary = rotary_tables(config, torch.arange(length, device=hidden.device)[None])
    for layer in core.encoder.layers:
        attention = layer.self_attention
        query, key, value = (
            part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for part in attention.query_key_value(layer.input_layernorm(hidden)).split(
                attention.sizes, dim=-1
            )
        )
        query, key = rotate_pairs(query, *rotary), rotate_pairs(key, *rotary)
        key, value = (
            part.repeat_interleave(attention.num_key_value_groups, dim=1) for part in (key, value)
        )
        scores = (query @ key.transpose(-1, -2) * attention.scaling).float()
        scores = scores.masked_fill(hidden_mask, float("-inf"))
        context = scores.softmax(-1).to(value.dtype) @ value
        hidden = hidden + attention.dense(context.transpose(1, 2).flatten(-2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = core.output_layer(core.encoder.final_layernorm(hidden)).float()
    shifted = logits[:, :-1].reshape(-1, config.padded_vocab_size)
    return nn.functional.cross_entropy(shifted, labels[:, 1:].reshape(-1))


def rows(batch_size: int, length: int, vocab_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw rows whose last quarter carries labels."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(3, vocab_size, (batch_size, length), generator=generator)
    labels = ids.clone()
    labels[:, : int(length * (1 - _LABELLED_SHARE))] = -100
    return ids.to(device), labels.to(device)


def seconds(step: Callable[[], None], *, repeats: int, device: str) -> float:
    """Time a step: the median of `repeats`, after two that are not counted."""
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(
    model: Any, ids: Tensor, labels: Tensor, *, repeats: int, device: str
) -> dict[str, Any]:
    """Time both, training every parameter; refuse to where their losses differ."""

    def ours() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        model.zero_grad(set_to_none=True)

    def plain() -> None:
        plain_loss(model, ids, labels).backward()
        model.zero_grad(set_to_none=True)

    model.train()
    with torch.no_grad():
        difference = abs(
            float(model(input_ids=ids, labels=labels).loss) - float(plain_loss(model, ids, labels))
        )
    bound = 1e-4 if model.dtype == torch.float32 else 5e-2
    assert difference < bound, f"the plain model's loss differs by {difference}"
    timed = {
        "ours_s": seconds(ours, repeats=repeats, device=device),
        "plain_s": seconds(plain, repeats=repeats, device=device),
    }
    return {**timed, "ratio": timed["plain_s"] / timed["ours_s"]}


def lora(model: Any, ids: Tensor, labels: Tensor, *, repeats: int, device: str) -> dict[str, Any]:
    """Time a LoRA step of rank 8 on every linear, optimizer included."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    taken = seconds(step, repeats=repeats, device=device)
    result: dict[str, Any] = {"ours_s": taken, "tokens_per_second": ids.numel() / taken}
    if device != "cpu":
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        name = torch.cuda.get_device_name()
        peak = next((value for key, value in _PEAK_BF16_FLOPS.items() if key in name), None)
        if peak:
            # Forward and the backward to the inputs: 4 operations a weight and token; the frozen
            # weights' own gradients are not taken, and recomputed layers are not counted.
            flops = 4 * model.config.num_layers * _layer_weights(model.config) * ids.numel()
            result["share_of_bf16_peak"] = flops / taken / peak
    return result


def _layer_weights(config: Any) -> int:
    queries = config.num_attention_heads * config.kv_channels
    keys = 2 * config.num_key_value_heads * config.kv_channels
    attention = config.hidden_size * (2 * queries + keys)
    return int(attention + 3 * config.hidden_size * config.ffn_hidden_size)


def build(arguments: argparse.Namespace) -> Any:
    """Build the model, with adapters where they are asked for."""
    torch.manual_seed(0)
    if arguments.model is None:
        model: Any = ChatGLMForConditionalGeneration(ChatGLMConfig(**_SMALL)).to(arguments.device)
    else:
        model = load_model(
            arguments.model,
            precision=arguments.precision,
            quantization=arguments.quantization,
            device=arguments.device,
            random_weights=True,
        )
    if arguments.lora:
        from peft import LoraConfig, get_peft_model

        targets = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    if arguments.checkpointing:
        model.get_base_model().activation_checkpointing_enable()
    return model


def main() -> None:
    """Time the shapes asked for and write one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="published name such as chatglm3-6b; default: a small one")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--quantization", choices=["int8", "nf4"])
    parser.add_argument("--shape", action="append", help="rows x tokens, such as 6x200")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model = build(arguments)
    for shape in arguments.shape or ["2x512", "6x200"]:
        batch_size, _, length = shape.partition("x")
        ids, labels = rows(
            int(batch_size), int(length), model.config.padded_vocab_size, arguments.device
        )
        if arguments.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        timed = (lora if arguments.lora else compare)(
            model, ids, labels, repeats=arguments.repeats, device=arguments.device
        )
        print(json.dumps({"shape": shape, "threads": torch.get_num_threads(), **timed}))


if __name__ == "__main__":
    main()
