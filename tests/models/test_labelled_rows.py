"""Models of transformers take their training loss from labelled rows alone, and it stays theirs."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raytune_glm.models import load_model
from raytune_glm.models.loss import skip_unlabelled_rows

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN = {
    "llama": {},
    "glm": {},
    "glm4": {},
    "qwen2": {"tie_word_embeddings": True},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0},
}
"""Architectures whose loss is that of their output layer; OPT narrows the hidden states first."""
OWN = {
    "gemma2": ({}, "its logits are not its output layer's"),
    "cohere": ({"logit_scale": 0.25}, "its logits are not its output layer's"),
    "granite": ({"logits_scaling": 4.0}, "its logits are not its output layer's"),
    "mixtral": (
        {"num_local_experts": 2, "num_experts_per_tok": 1, "output_router_logits": True},
        "its loss is not the mean cross entropy of the next token",
    ),
}
"""Architectures that cap or scale logits, or add a router's loss, and what is logged of them."""


def built(model_type: str, **sizes: Any) -> Any:
    """The model as transformers builds it, in training mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **{**SIZES, **sizes})
    return AutoModelForCausalLM.from_config(config).train()


def lean(model: Any) -> Any:
    skip_unlabelled_rows(model)
    return model


def batch() -> dict[str, Tensor]:
    """Two rows of which five tokens carry a label that some row predicts; the first one cannot."""
    ids = torch.arange(5, 23).reshape(2, 9)
    labels = torch.full_like(ids, -100)
    labels[0, 5:], labels[1, 7] = ids[0, 5:], ids[1, 7]
    labels[1, 0] = ids[1, 0]
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def value_of(output: Any) -> float:
    return float(output.loss.detach())


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def rows_given_to(head: nn.Module) -> list[int]:
    """Count the rows of each call of an output layer, in a list that grows."""
    counts: list[int] = []
    head.register_forward_hook(lambda _, given, out: counts.append(out[..., 0].numel()))
    return counts


@pytest.mark.parametrize("model_type", PLAIN)
def test_loss_and_gradients_are_those_of_all_rows_and_the_head_sees_labelled_rows_alone(
    model_type: str,
) -> None:
    model = built(model_type, **PLAIN[model_type])
    theirs = model(**batch())
    theirs.loss.backward()
    expected = gradients(model)
    lean(model)(**batch())  # the first one also looks how the model takes its loss
    counts = rows_given_to(model.get_output_embeddings())
    output = model(**batch())
    assert sum(counts) == 5
    assert output.logits is None
    output.loss.backward()
    assert value_of(output) == pytest.approx(value_of(theirs), abs=1e-6)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


@pytest.mark.parametrize("model_type", OWN)
def test_an_architecture_with_a_loss_of_its_own_keeps_it_and_the_log_says_so(
    model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    sizes, reason = OWN[model_type]
    model = built(model_type, **sizes)
    theirs = value_of(model(**batch()))
    lean(model)
    with caplog.at_level(logging.INFO, "raytune_glm"):
        output = model(**batch())
    assert f"keeps its own loss over all rows: {reason}" in caplog.text
    assert output.logits is not None
    assert value_of(output) == pytest.approx(theirs, abs=1e-6)


def test_a_routers_loss_that_is_asked_for_at_the_call_is_not_lost() -> None:
    model = built("mixtral", **PLAIN["mixtral"])
    theirs = value_of(model(**batch(), output_router_logits=True))
    ours = value_of(lean(model)(**batch(), output_router_logits=True))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert abs(ours - value_of(model(**batch()))) > 1e-3


def test_logits_come_where_they_are_asked_for_and_outside_training() -> None:
    model = built("llama")
    plain = model(**batch()).logits
    lean(model)
    assert torch.equal(model(**batch(), skip_logits=False).logits, plain)
    model.eval()
    assert torch.equal(model(**batch()).logits, plain)
    skipped = model(**batch(), skip_logits=True)
    assert skipped.logits is None
    assert value_of(skipped) == pytest.approx(value_of(model(**batch())), abs=1e-6)
    unlabelled = {name: value for name, value in batch().items() if name != "labels"}
    assert torch.equal(model.train()(**unlabelled).logits, plain)


def test_the_sum_is_divided_by_the_count_of_several_batches_where_that_is_given() -> None:
    model = lean(built("llama"))
    mean = value_of(model(**batch()))
    half = value_of(model(**batch(), num_items_in_batch=10))
    assert half == pytest.approx(mean / 2, abs=1e-6)


def test_arguments_may_be_given_by_place_and_the_outcome_as_a_tuple() -> None:
    model = lean(built("llama"))
    given = batch()
    by_name = value_of(model(**given))
    by_place = model(given["input_ids"], given["attention_mask"], labels=given["labels"])
    assert value_of(by_place) == by_name
    as_tuple = model(**given, return_dict=False)
    assert float(as_tuple[0].detach()) == pytest.approx(by_name, abs=1e-6)


# peft 0.21 asks transformers under a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_on_the_output_layer_itself_is_trained_as_before() -> None:
    from peft import LoraConfig, get_peft_model

    results = []
    for skip_logits in (False, True):
        model = lean(built("llama"))
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        adapted: Any = get_peft_model(model, config)
        loss = adapted(**batch(), skip_logits=skip_logits).loss
        loss.backward()
        results.append((float(loss.detach()), gradients(adapted)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert any("lm_head" in name for name in results[0][1])
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], atol=1e-6), name


def test_looking_how_a_model_takes_its_loss_draws_no_random_number() -> None:
    losses = []
    for looked_before in (True, False):
        model = lean(built("llama", attention_dropout=0.5))
        if looked_before:
            model(**batch())
        torch.manual_seed(3)
        losses.append(value_of(model(**batch())))
    assert losses[0] == losses[1]


def test_a_copy_of_the_model_computes_with_its_own_weights() -> None:
    model = lean(built("llama"))
    before = value_of(model(**batch()))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert value_of(model(**batch())) == before
    assert value_of(twin(**batch())) == pytest.approx(math.log(96), abs=1e-5)


@pytest.mark.parametrize("random_weights", [False, True])
def test_a_loaded_model_takes_its_loss_so(llama_folder: Any, random_weights: bool) -> None:
    model: Any = load_model(llama_folder, random_weights=random_weights)
    assert model.train()(**batch()).logits is None
