"""Attention functions of transformers' interface other than its own SDPA and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from raytune_glm.errors import ModelError
from raytune_glm.models import FAMILIES, load_model
from raytune_glm.models.attention import chosen_implementation
from tests.models.test_vectors import VECTORS, given

NAME = "pads_only"
"""Not a name with "flash" in it, for which transformers wants the real one."""


def pads_only(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend on FlashAttention's terms: causal up to the last key, at most a 2-D mask of pads."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    seen = torch.ones(num_queries, num_keys).bool().tril(num_keys - num_queries)
    if attention_mask is not None:
        assert attention_mask.dim() == 2
        seen = seen & attention_mask.bool()[:, None, None]
    context = scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True
    )
    return context.nan_to_num().transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, pads_only)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


@pytest.mark.parametrize("prefix_length", [0, 4])
def test_a_causal_attention_with_a_mask_of_pads_gives_sdpas_loss_and_answers(
    prefix_length: int,
) -> None:
    inputs, _, _ = given("chatglm2", "batch_left_pad_labels")
    model: Any = load_model(VECTORS / "chatglm2")
    if prefix_length:
        torch.manual_seed(3)
        model.add_prefix(prefix_length, projection=False)
        model.eval()
    prompt = {name: value for name, value in inputs.items() if name != "labels"}
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    results = []
    for implementation in ("sdpa", NAME):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            loss = float(model(**inputs).loss)
        results.append((loss, model.generate(**prompt, **settings).tolist()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    assert results[0][1] == results[1][1]


def test_the_attention_asked_for_is_the_one_that_runs(llama_folder: Path) -> None:
    for folder in (VECTORS / "chatglm", VECTORS / "chatglm2", llama_folder):
        for asked, runs in (("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")):
            for random_weights in (False, True):
                model: Any = load_model(
                    folder,
                    attention=asked,  # type: ignore[arg-type]
                    random_weights=random_weights,
                )
                assert model.config._attn_implementation == runs


def test_flash_attention_is_refused_for_chatglms_mask_which_is_not_causal() -> None:
    with pytest.raises(ModelError, match=r"`model.attention` must be auto, sdpa or eager for chat"):
        load_model(VECTORS / "chatglm", attention="flash_attention_2", precision="bf16")
    model: Any = load_model(VECTORS / "chatglm")
    with pytest.raises(ValueError, match=r"does not support Flash Attention 2"):
        model.set_attn_implementation("flash_attention_2")


def test_flash_attention_is_refused_where_it_cannot_run() -> None:
    folder = VECTORS / "chatglm2"
    with pytest.raises(ModelError, match=r"must be bf16 or fp16 for attention=flash_attention_2"):
        load_model(folder, attention="flash_attention_2")
    with pytest.raises(ModelError, match=r"must be auto, sdpa or eager without a GPU, but got"):
        load_model(folder, attention="flash_attention_3", precision="bf16")


@pytest.mark.parametrize(
    ("family", "precision", "device", "class_supports_flash", "chosen"),
    [
        ("chatglm3", "bf16", "cuda:1", True, "flash_attention_2"),
        ("llama", "fp16", "cuda", True, "flash_attention_2"),
        ("chatglm3", "fp32", "cuda", True, None),
        ("chatglm3", "bf16", "cpu", True, None),
        ("chatglm", "bf16", "cuda", False, None),
        ("generic", "bf16", "cuda", False, None),
    ],
)
def test_auto_is_flash_attention_exactly_where_it_is_installed_and_can_run(
    family: str,
    precision: Any,
    device: str,
    class_supports_flash: bool,
    chosen: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def choose() -> str | None:
        return chosen_implementation(
            "auto",
            FAMILIES[family],
            precision=precision,
            device=device,
            class_supports_flash=class_supports_flash,
        )

    assert choose() is None, "FlashAttention is installed where these tests run"
    (tmp_path / "flash_attn.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert choose() == chosen


def test_flash_attention_that_is_asked_for_and_not_installed_is_refused() -> None:
    with pytest.raises(ModelError, match=r"needs the Python module flash_attn, which is not inst"):
        chosen_implementation(
            "flash_attention_2",
            FAMILIES["llama"],
            precision="bf16",
            device="cuda",
            class_supports_flash=True,
        )


def test_chatglm_refuses_a_sequence_beyond_its_limit() -> None:
    model: Any = load_model(VECTORS / "chatglm")
    ids = torch.full((1, model.config.max_sequence_length + 1), 5)
    with pytest.raises(ModelError, match=r"at most max_sequence_length=128 tokens, but got 129"):
        model(ids)
