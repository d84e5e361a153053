"""ChatGLM, ChatGLM2 and ChatGLM3 against what the original code computed, P-Tuning included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.oracle import (
    FAMILY_NAMES,
    GRADIENT,
    HIDDEN,
    LOGITS,
    LOSS,
    PREFIX,
    UNNORMED,
    VARIANTS,
    case,
    cases,
    worst,
)

pytestmark = pytest.mark.shared


@pytest.fixture(params=FAMILY_NAMES)
def folder(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "oracle" / request.param


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_and_logits_are_the_originals(folder: Path, variant: str) -> None:
    for one in cases(folder, "forward", variant=variant):
        model, valid = one.model(), one.valid
        stack = model.transformer if folder.name == "chatglm" else model.transformer.encoder
        before_norm: list[torch.Tensor] = []
        hook = stack.final_layernorm.register_forward_pre_hook(
            lambda _, inputs, seen=before_norm: seen.append(inputs[0])
        )
        with torch.no_grad():
            output = model(**one.inputs, output_hidden_states=True)
        hook.remove()
        hidden = output.hidden_states[-1]
        assert worst(hidden[valid], one.expected("final_hidden")[valid]) < HIDDEN, one.name
        if "last_layer_output" in one.expect:
            theirs = one.expected("last_layer_output")[valid]
            assert worst(before_norm[0][valid], theirs) < UNNORMED, one.name
        logits = output.logits
        if "logits" in one.expect:
            assert worst(logits[valid], one.expected("logits")[valid]) < LOGITS, one.name
        if "logits_tail" in one.expect:
            tail = one.expected("logits_tail")
            kept = valid[:, -tail.shape[1] :]
            assert worst(logits[:, -tail.shape[1] :][kept], tail[kept]) < LOGITS, one.name
        if "logits_last" in one.expect:
            kept = valid[:, -1]
            theirs = one.expected("logits_last")[kept]
            assert worst(logits[kept, -1], theirs) < LOGITS, one.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layers_output_and_cache_are_the_originals(folder: Path, variant: str) -> None:
    one = case(folder, "single" if variant == "base" else f"{variant}/single")
    with torch.no_grad():
        output = one.model()(**one.inputs, output_hidden_states=True, use_cache=True)
    # The last entry is normed; `last_layer_output` covers the one before the norm.
    layers = one.expect.get("layer_outputs", [])
    for ours, theirs in zip(output.hidden_states[1:-1], layers, strict=False):
        assert worst(ours, one.tensors[theirs]) < UNNORMED
    keys, values = one.expect["present_key"], one.expect["present_value"]
    for cached, key, value in zip(output.past_key_values.layers, keys, values, strict=True):
        assert worst(cached.keys.permute(2, 0, 1, 3), one.tensors[key]) < HIDDEN
        assert worst(cached.values.permute(2, 0, 1, 3), one.tensors[value]) < HIDDEN


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("how", ["eval", "train", "checkpointed"])
def test_loss_and_gradients_are_the_originals(folder: Path, variant: str, how: str) -> None:
    for one in cases(folder, "forward", variant=variant):
        if "loss" not in one.expect:
            continue
        model = one.model()
        model.train(how != "eval")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        if how == "checkpointed":
            model.activation_checkpointing_enable()
        loss = model(**one.inputs).loss
        loss.backward()
        model.activation_checkpointing_disable()
        assert float(loss.detach()) == pytest.approx(one.expect["loss"], abs=LOSS), one.name
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, theirs in one.expect["grads"].items():
            assert worst(gradients[name], one.tensors[theirs]) < GRADIENT, (one.name, name)
        statistics = one.expect["grad_stats"]
        # With a prefix the original froze the rest (ChatGLM3) or its script did.
        assert gradients.keys() == statistics.keys() or variant != "base"
        for name, numbers in statistics.items():
            norm = float(gradients[name].norm())
            assert norm == pytest.approx(numbers["l2"], rel=1e-4, abs=1e-4), (one.name, name)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_the_prefix_is_the_originals(folder: Path, variant: str) -> None:
    for one in cases(folder, "prefix", variant=variant):
        prefix = one.model().transformer.prefix_encoder(one.entry["batch_size"], torch.float32)
        for (keys, values), theirs in zip(prefix, one.expect["past_key_values"], strict=True):
            ours = torch.stack((keys, values)).permute(0, 3, 1, 2, 4)
            expected = one.tensors[theirs]
            # A projection's in terms of the largest value: the expected ones are themselves
            # rounded, and up to 2e-6 from what double precision gives.
            largest = float(expected.abs().max()) if "projection" in variant else 1.0
            assert worst(ours, expected) < PREFIX * max(1.0, largest)


@pytest.mark.parametrize("masked", [False, True], ids=["no-mask", "mask"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_fed_one_at_a_time_give_the_originals_logits(
    folder: Path, variant: str, masked: bool
) -> None:
    for one in cases(folder, "incremental", variant=variant):
        model, ids, num_prefilled = one.model(), one.inputs["input_ids"], one.entry["prefill"]

        def mask(length: int) -> dict[str, torch.Tensor]:
            return {"attention_mask": torch.ones(1, length).long()} if masked else {}

        with torch.no_grad():
            output = model(ids[:, :num_prefilled], use_cache=True, **mask(num_prefilled))
            steps = [output.logits[:, -1]]
            for place in range(num_prefilled, ids.shape[1]):
                output = model(
                    ids[:, place : place + 1],
                    past_key_values=output.past_key_values,
                    use_cache=True,
                    **mask(place + 1),
                )
                steps.append(output.logits[:, -1])
            full = model(ids).logits[:, num_prefilled - 1 :]
        theirs = one.expected("step_logits")
        assert worst(torch.stack(steps[: theirs.shape[1]], dim=1), theirs) < LOGITS
        assert worst(torch.stack(steps, dim=1), full) < LOGITS
        length = output.past_key_values.get_seq_length()
        assert length == one.entry["cache_shape_after"][0]


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
def test_several_tokens_added_to_a_cache_give_the_originals_logits(name: str, shared: Path) -> None:
    one = case(shared / "oracle" / name, "chunked_continue")
    model, ids, num_prefilled = one.model(), one.inputs["input_ids"], one.entry["prefill"]
    with torch.no_grad():
        cache = model(ids[:, :num_prefilled], use_cache=True).past_key_values
        logits = model(ids[:, num_prefilled:], past_key_values=cache).logits
    assert worst(logits, one.expected("logits")) < LOGITS


def test_several_tokens_added_to_chatglms_cache_are_causal_among_themselves(shared: Path) -> None:
    one = case(shared / "oracle" / "chatglm", "incremental")
    model, ids, num_prefilled = one.model(), one.inputs["input_ids"], one.entry["prefill"]
    with torch.no_grad():
        cache = model(ids[:, :num_prefilled], use_cache=True).past_key_values
        logits = model(ids[:, num_prefilled:], past_key_values=cache).logits
        full = model(ids).logits
    assert worst(logits, full[:, num_prefilled:]) < LOGITS


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_generation_is_the_originals(folder: Path, variant: str, use_cache: bool) -> None:
    for one in cases(folder, "generate", variant=variant):
        sequences = one.model().generate(
            **one.inputs,
            max_new_tokens=one.entry["max_new_tokens"],
            eos_token_id=one.entry["eos_token_id"],
            pad_token_id=one.entry["pad_token_id"],
            do_sample=False,
            use_cache=use_cache,
        )
        key = "sequences" if use_cache else "sequences_without_cache"
        assert sequences.tolist() == one.expect[key], one.name


def test_eager_attention_gives_the_originals_hidden_states(folder: Path) -> None:
    one = case(folder, "batch_left_pad")
    model, valid = one.model(), one.valid
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**one.inputs, output_hidden_states=True, output_attentions=True)
    model.set_attn_implementation("sdpa")
    assert worst(output.hidden_states[-1][valid], one.expected("final_hidden")[valid]) < HIDDEN
    sums = output.attentions[0].sum(-1)
    assert worst(sums, torch.ones_like(sums)) < 1e-5


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
def test_rotary_tables_are_the_originals(name: str, shared: Path) -> None:
    from raytune_glm.models.chatglm.attention import rotary_tables

    one = case(shared / "oracle" / name, "single")
    cos, sin = rotary_tables(one.model().config, torch.arange(512)[None])
    theirs = one.tensors["rope/float32/cos_sin"]
    assert worst(torch.stack((cos[0, 0], sin[0, 0]), dim=-1), theirs) < 1e-6


def test_chatglms_rotary_tables_are_the_originals(shared: Path) -> None:
    from raytune_glm.models.chatglm_v1.positions import rotary_tables

    one = case(shared / "oracle" / "chatglm", "single")
    streams = torch.stack((torch.arange(512), torch.arange(512)))[None]
    cos, sin = rotary_tables(one.model().config, streams)
    for ours, theirs in ((cos, "cos"), (sin, "sin")):
        table = one.tensors[f"rope/float32/{theirs}"]
        assert worst(ours[0, 0], torch.cat((table, table), dim=-1)) < 1e-6


def test_chatglms_mask_and_positions_are_the_originals(shared: Path) -> None:
    from raytune_glm.models.chatglm_v1.positions import allowed_keys, find_spans, positions

    compared = 0
    for one in cases(shared / "oracle" / "chatglm", "forward"):
        derived = one.entry.get("derived")
        if not derived:
            continue
        ids, config = one.inputs["input_ids"], one.model().config
        spans = find_spans(ids, None, config)
        ours = positions(spans, 0, ids.shape[1], config)
        assert torch.equal(ours, one.tensors[derived["position_ids"]]), one.name
        seen = allowed_keys(spans, 0, ids.shape[1], torch.ones_like(ids).bool())
        assert torch.equal(~seen, one.tensors[derived["attention_mask"]].bool()), one.name
        compared += 1
    assert compared >= 5
