"""The original LLaMA layout, run by a small model of that layout that is written here alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.models import load_model
from raytune_glm.models.llama_original import original_llama
from tests.methods.conftest import Base
from tests.methods.test_contract import EXAMPLES
from tests.methods.test_merging import train_and_save, tuned, write

IDS = torch.tensor([[5, 6, 7, 81, 84, 9, 10, 11]])


def feed_forward_width(params: Mapping[str, Any]) -> int:
    """As the reference code sizes its feed-forward part: two thirds of 4 x dim, rounded up."""
    width = int(2 * (4 * params["dim"]) / 3)
    if "ffn_dim_multiplier" in params:
        width = int(params["ffn_dim_multiplier"] * width)
    step = params["multiple_of"]
    return step * ((width + step - 1) // step)


def original_logits(folder: Path) -> Tensor:
    """Run LLaMA (arXiv 2302.13971) as published: neighbouring values of a head turn together."""
    weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    params = json.loads((folder / "params.json").read_text())
    heads, groups = params["n_heads"], params["n_kv_heads"]
    size, length = params["dim"] // heads, IDS.shape[1]
    speeds = params["rope_theta"] ** (-torch.arange(0, size, 2).float() / size)
    turns = torch.polar(torch.ones(length, size // 2), torch.outer(torch.arange(length), speeds))

    def normed(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weights[name]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

    x = weights["tok_embeddings.weight"][IDS[0]]
    for layer in range(params["n_layers"]):
        own = {
            name: weights[f"layers.{layer}.{name}.weight"]
            for name in ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
        }
        given = normed(x, f"layers.{layer}.attention_norm.weight")
        query = turned((given @ own["attention.wq"].T).unflatten(-1, (heads, size)))
        key = turned((given @ own["attention.wk"].T).unflatten(-1, (groups, size)))
        value = (given @ own["attention.wv"].T).unflatten(-1, (groups, size))
        key, value = (part.repeat_interleave(heads // groups, dim=1) for part in (key, value))
        seen = scaled_dot_product_attention(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), is_causal=True
        )
        x = x + seen.transpose(0, 1).flatten(-2) @ own["attention.wo"].T
        w1, w2, w3 = (weights[f"layers.{layer}.feed_forward.w{n}.weight"] for n in (1, 2, 3))
        assert w1.shape == (feed_forward_width(params), params["dim"])
        given = normed(x, f"layers.{layer}.ffn_norm.weight")
        x = x + (silu(given @ w1.T) * (given @ w3.T)) @ w2.T
    return normed(x, "norm.weight") @ weights["output.weight"].T


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A LLaMA with grouped queries and a feed-forward width that needs a multiplier."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from raytune_glm.models import family_of

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=104,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=request.param,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    family = family_of(saved)
    return Base(folder, family, family.shape(saved, folder))


def test_the_original_model_gives_the_logits_of_transformers(llama: Base, tmp_path: Path) -> None:
    adapter = train_and_save(llama, EXAMPLES["lora"], "lora", tmp_path / "adapter")
    found = tuned(llama, adapter)
    write(found, tmp_path / "hf")
    write(found, tmp_path / "original", layout="state_dict")
    with torch.no_grad():
        theirs = load_model(tmp_path / "hf")(input_ids=IDS).logits[0]
    torch.testing.assert_close(original_logits(tmp_path / "original"), theirs, rtol=0, atol=1e-4)
    assert {path.name for path in (tmp_path / "original").iterdir()} == {
        "consolidated.00.pth",
        "params.json",
        "merged_from.json",
    }


def test_weights_are_written_in_the_precision_that_is_asked_for(
    llama: Base, tmp_path: Path
) -> None:
    adapter = train_and_save(llama, EXAMPLES["freeze"], "freeze", tmp_path / "adapter")
    write(tuned(llama, adapter), tmp_path / "out", layout="state_dict", precision="fp16")
    weights = torch.load(tmp_path / "out" / "consolidated.00.pth", weights_only=True)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    last = load_file(adapter / "weights.safetensors")["model.layers.1.self_attn.v_proj.weight"]
    assert torch.equal(weights["layers.1.attention.wv.weight"], last.half())


@pytest.mark.parametrize(
    ("hidden", "width", "multiple_of"),
    [(4096, 11008, 256), (5120, 13824, 256), (6656, 17920, 256), (8192, 22016, 256)],
)
def test_the_published_sizes_have_their_published_params(
    hidden: int, width: int, multiple_of: int
) -> None:
    # `params.json` of LLaMA 7B to 65B says multiple_of 256 and has no multiplier.
    params = original_llama(sizes(hidden_size=hidden, intermediate_size=width)).params
    assert params["multiple_of"] == multiple_of
    assert "ffn_dim_multiplier" not in params


@pytest.mark.parametrize("width", [14336, 28672, 101, 7, 1536, 8192])
def test_any_feed_forward_width_comes_out_of_params_again(width: int) -> None:
    params = original_llama(sizes(intermediate_size=width)).params
    assert feed_forward_width(params) == width


def sizes(**changes: Any) -> dict[str, Any]:
    plain = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "vocab_size": 96,
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "needs attention_bias=False, but config.json has .*=True"),
        ({"head_dim": 64}, "needs head_dim=128, but config.json has head_dim=64"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "no scaling of positions like .*yarn.* --format hf",
        ),
    ],
)
def test_what_the_original_code_cannot_run_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        original_llama(sizes(**changes))


def test_other_families_have_no_original_layout(bases: dict[str, Base], tmp_path: Path) -> None:
    base = bases["chatglm3"]
    adapter = train_and_save(base, EXAMPLES["lora"], "lora", tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"--format must be hf for chatglm3, .* only LLaMA"):
        write(tuned(base, adapter), tmp_path / "merged", layout="state_dict")
