"""ChatGLM2 and ChatGLM3 against what the original code computed, to the README's tolerances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.oracle import GRADIENT, HIDDEN, LOGITS, LOSS, Oracle, names, oracle, oracle_model

pytestmark = pytest.mark.shared


@pytest.fixture(params=["chatglm2", "chatglm3"])
def folder(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "oracle" / request.param


@pytest.fixture
def data(folder: Path) -> Oracle:
    return oracle(folder)


@pytest.fixture
def model(folder: Path) -> Any:
    return oracle_model(folder)


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs.float()).abs().max())


@pytest.mark.parametrize("name", names("forward"))
def test_hidden_states_and_logits_are_the_originals(name: str, data: Oracle, model: Any) -> None:
    valid = data.valid(name)
    expect = data.cases[name]["expect"]
    before_norm: list[torch.Tensor] = []
    hook = model.transformer.encoder.final_layernorm.register_forward_pre_hook(
        lambda _, inputs: before_norm.append(inputs[0])
    )
    with torch.no_grad():
        output = model(**data.inputs(name), output_hidden_states=True)
    hook.remove()
    hidden = output.hidden_states[-1]
    assert worst(hidden[valid], data.expected(name, "final_hidden")[valid]) < HIDDEN
    if "last_layer_output" in expect:
        assert (
            worst(before_norm[0][valid], data.expected(name, "last_layer_output")[valid]) < HIDDEN
        )
    if "logits" in expect:
        assert worst(output.logits[valid], data.expected(name, "logits")[valid]) < LOGITS
    if "logits_tail" in expect:
        tail = data.expected(name, "logits_tail")
        num_columns = tail.shape[1]
        ours, kept = output.logits[:, -num_columns:], valid[:, -num_columns:]
        assert worst(ours[kept], tail[kept]) < LOGITS
    if "logits_last" in expect:
        kept = valid[:, -1]
        assert worst(output.logits[kept, -1], data.expected(name, "logits_last")[kept]) < LOGITS


def test_every_layers_output_and_cache_are_the_originals(data: Oracle, model: Any) -> None:
    expect = data.cases["single"]["expect"]
    with torch.no_grad():
        output = model(**data.inputs("single"), output_hidden_states=True, use_cache=True)
    # The last entry is normed; the case's `last_layer_output` covers the one before the norm.
    for ours, theirs in zip(output.hidden_states[1:-1], expect["layer_outputs"], strict=False):
        assert worst(ours, data.tensors[theirs]) < HIDDEN
    for layer, (key, value) in enumerate(
        zip(expect["present_key"], expect["present_value"], strict=True)
    ):
        cached = output.past_key_values.layers[layer]
        assert worst(cached.keys.permute(2, 0, 1, 3), data.tensors[key]) < HIDDEN
        assert worst(cached.values.permute(2, 0, 1, 3), data.tensors[value]) < HIDDEN


@pytest.mark.parametrize(
    "name", [name for name in names("forward") if "label" in name or "train" in name]
)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_loss_and_gradients_are_the_originals(
    name: str, training: bool, data: Oracle, model: Any
) -> None:
    expect = data.cases[name]["expect"]
    model.train(training)
    model.zero_grad()
    loss = model(**data.inputs(name)).loss
    loss.backward()
    model.eval()
    assert float(loss.detach()) == pytest.approx(expect["loss"], abs=LOSS)
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for key, theirs in expect["grads"].items():
        assert worst(gradients[key], data.tensors[theirs]) < GRADIENT, key
    assert gradients.keys() == expect["grad_stats"].keys()
    for key, statistics in expect["grad_stats"].items():
        assert float(gradients[key].norm()) == pytest.approx(
            statistics["l2"], rel=1e-4, abs=1e-4
        ), key
    model.zero_grad()


def test_tokens_fed_one_at_a_time_give_the_originals_logits(data: Oracle, model: Any) -> None:
    ids = data.inputs("incremental")["input_ids"]
    theirs = data.expected("incremental", "step_logits")
    num_prefilled = data.cases["incremental"]["prefill"]
    with torch.no_grad():
        output = model(ids[:, :num_prefilled], use_cache=True)
        steps = [output.logits[:, -1]]
        for place in range(num_prefilled, ids.shape[1]):
            output = model(ids[:, place : place + 1], past_key_values=output.past_key_values)
            steps.append(output.logits[:, -1])
        full = model(ids).logits[:, num_prefilled - 1 :]
    assert worst(torch.stack(steps[: theirs.shape[1]], dim=1), theirs) < LOGITS
    assert worst(torch.stack(steps, dim=1), full) < LOGITS


def test_several_tokens_added_to_a_cache_give_the_originals_logits(
    data: Oracle, model: Any
) -> None:
    ids = data.inputs("chunked_continue")["input_ids"]
    num_prefilled = data.cases["chunked_continue"]["prefill"]
    with torch.no_grad():
        cache = model(ids[:, :num_prefilled], use_cache=True).past_key_values
        logits = model(ids[:, num_prefilled:], past_key_values=cache).logits
    assert worst(logits, data.expected("chunked_continue", "logits")) < LOGITS


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("name", [*names("generate"), "gen_chat"])
def test_greedy_generation_is_the_originals(
    name: str, use_cache: bool, data: Oracle, model: Any
) -> None:
    if name not in data.cases:
        pytest.skip("ChatGLM2 has no chat roles")
    case = data.cases[name]
    sequences = model.generate(
        **data.inputs(name),
        max_new_tokens=case["max_new_tokens"],
        eos_token_id=case["eos_token_id"],
        pad_token_id=case["pad_token_id"],
        do_sample=False,
        use_cache=use_cache,
    )
    key = "sequences" if use_cache else "sequences_without_cache"
    theirs = case["expect"][key]
    assert sequences.tolist() == theirs


def test_half_precision_stays_within_the_originals_distance(folder: Path, data: Oracle) -> None:
    from raytune_glm.models import load_model

    for precision, name, bound in (
        ("fp16", "float16_single", 0.1),
        ("bf16", "bfloat16_single", 0.5),
    ):
        half = load_model(folder, precision=precision)
        with torch.no_grad():
            logits = half(**data.inputs(name)).logits
        tail = data.expected("single", "logits")[:, -6:]
        assert worst(logits[:, -6:], tail) < bound


def test_eager_attention_gives_the_originals_hidden_states(data: Oracle, model: Any) -> None:
    name = "batch_left_pad"
    valid = data.valid(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**data.inputs(name), output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation("sdpa")
    assert (
        worst(output.hidden_states[-1][valid], data.expected(name, "final_hidden")[valid]) < HIDDEN
    )
    sums = output.attentions[0].sum(-1)
    assert worst(sums, torch.ones_like(sums)) < 1e-5


def test_rotary_tables_are_the_originals(data: Oracle, model: Any) -> None:
    from raytune_glm.models.chatglm.attention import rotary_tables

    positions = torch.arange(512)[None]
    cos, sin = rotary_tables(model.config, positions)
    tables = {key: value for key, value in data.tensors.items() if key.startswith("rope/")}
    table = next(value for key, value in tables.items() if "float32" in key and value.dim() > 1)
    ours = torch.stack((cos[0, 0], sin[0, 0]), dim=-1)
    assert worst(ours, table.reshape(ours.shape)) < 1e-6
