"""Write `data/tiny-glm`, the embedded checkpoint in ChatGLM3's layout, from nothing.

    python scripts/make_tiny_glm.py [--out data/tiny-glm] [--steps 2300] [--threads 1]

It trains a tokenizer and a small model on text that `corpus` makes: documents, questions, and
extraction tasks other than the fault triples of `data/fault_triples`. Among them are repair records
told by that data's own grammar, but asked about under other names of the relations and in other
layouts, never with `_` (`corpus/workshop.py`). No entity of its dev and test rows stands in the
text (`pretraining/rows.py`). On a CPU; `data/README.md` says how long it takes and what comes out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path

import torch
from pretraining import circuit, rows, training, vocabulary
from safetensors.torch import save_file

from raytune_glm.models import load_tokenizer
from raytune_glm.models.chatglm.configuration import ChatGLMConfig

TOKENIZER_TEXTS = 20_000
SIZES = {
    "num_layers": 4,
    "hidden_size": 192,
    "ffn_hidden_size": 512,
    "num_attention_heads": 4,
    "kv_channels": 48,
    "multi_query_group_num": 2,
    "seq_length": 512,
}
PUBLISHED_FIELDS = {
    "_name_or_path": "raytune-glm/tiny-chatglm3",
    "model_type": "chatglm",
    "architectures": ["ChatGLMForConditionalGeneration"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""The fields of the published `config.json` that are not sizes."""


def write_config(folder: Path, padded_vocab_size: int) -> ChatGLMConfig:
    """Write `config.json` and give the configuration to train with, whose embeddings are tied."""
    fields = {**PUBLISHED_FIELDS, **SIZES, "padded_vocab_size": padded_vocab_size}
    text = json.dumps(fields, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return ChatGLMConfig(**SIZES, padded_vocab_size=padded_vocab_size, tie_word_embeddings=True)


def write_weights(folder: Path, model: torch.nn.Module) -> None:
    """Write the weights in fp16 under the published names; the output layer gets its own copy."""
    tensors = {name: value.half().clone() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train the tokenizer and the model, write them, and print the files' sizes and hashes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/tiny-glm"))
    parser.add_argument("--data", type=Path, default=Path("data/fault_triples"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="the weights depend on it")
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--batch-tokens", type=int, default=2000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--num-merges", type=int, default=120)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    start = time.monotonic()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)
    kept = rows.Kept(arguments.data)

    texts = rows.texts(TOKENIZER_TEXTS, kept, rng)
    lines = (line for text in texts for part in rows.parts(text) for line in part.split("\n"))
    vocabulary.train(filter(None, lines), folder, num_merges=arguments.num_merges)
    # The tokenizer's family is read off config.json, whose vocabulary size is the tokenizer's.
    write_config(folder, padded_vocab_size=1)
    tokenizer = load_tokenizer(folder)
    config = write_config(folder, padded_vocab_size=-(-len(tokenizer) // 16) * 16)
    model = circuit.build(config, seed=arguments.seed)
    num_parameters = sum(value.numel() for value in model.state_dict().values())
    print(f"{len(tokenizer)} tokens, {num_parameters:,} parameters", flush=True)

    batches = rows.batches(tokenizer, kept, rng, num_tokens=arguments.batch_tokens)
    settings = training.Settings(steps=arguments.steps, learning_rate=arguments.learning_rate)
    training.train(model, batches, settings)
    write_weights(folder, model)
    for file in sorted(folder.iterdir()):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        print(f"{file.name}  {file.stat().st_size} bytes  sha256 {digest}")
    print(f"{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
