"""What a user of the ChatGLM2 / ChatGLM3 model would miss, on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from raytune_glm.errors import ModelError
from raytune_glm.models import load_model
from raytune_glm.models.loss import labelled_loss

ROWS = [[5, 9, 60, 270, 301, 12], [7, 80, 2], [31, 32, 33, 34]]


@pytest.fixture
def model(chatglm_folder: Path) -> Any:
    return load_model(chatglm_folder)


def batch(side: str) -> dict[str, torch.Tensor]:
    """`ROWS` padded to one length; the last two tokens of each carry a label."""
    length = max(map(len, ROWS)) + 2
    ids, mask, labels = [], [], []
    for row in ROWS:
        pads = length - len(row)
        answer = [-100] * (len(row) - 2) + row[-2:]
        for column, value, pad in (
            (ids, row, 0),
            (mask, [1] * len(row), 0),
            (labels, answer, -100),
        ):
            column.append([pad] * pads + value if side == "left" else value + [pad] * pads)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def loss_of(model: Any, **inputs: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(**inputs).loss)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_gradient_checkpointing_gives_the_same_gradients(model: Any) -> None:
    model.train()
    model(**batch("left")).loss.backward()
    plain = gradients(model)
    model.activation_checkpointing_enable()
    calls = []
    first = model.transformer.encoder.layers[0].input_layernorm
    hook = first.register_forward_hook(lambda *_: calls.append(1))
    model(**batch("left")).loss.backward()
    hook.remove()
    assert len(calls) == 2, "the layer is run again in the backward pass"
    checkpointed = gradients(model)
    assert plain.keys() == checkpointed.keys() == dict(model.named_parameters()).keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], atol=1e-6), name


def test_the_loss_is_the_mean_over_labelled_tokens(model: Any) -> None:
    inputs = batch("right")
    with torch.no_grad():
        output = model(**inputs)
    logits, targets = output.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
    assert float(output.loss) == pytest.approx(float(cross_entropy(logits, targets)), abs=1e-6)
    num_labels = int((targets != -100).sum())
    for count in (2 * num_labels, torch.tensor(2 * num_labels)):
        half = loss_of(model, **inputs, num_items_in_batch=count)
        assert half == pytest.approx(float(output.loss) / 2, abs=1e-6)


def test_training_with_labels_makes_no_logits_unless_asked(model: Any) -> None:
    evaluated = model(**batch("left")).logits
    model.train()
    assert model(**batch("left")).logits is None
    assert torch.equal(model(**batch("left"), skip_logits=False).logits, evaluated)
    model.eval()
    assert model(**batch("left"), skip_logits=True).logits is None


def test_the_loss_in_chunks_is_the_loss_at_once(model: Any) -> None:
    hidden = torch.randn(3, 9, 32, requires_grad=True)
    labels = torch.randint(0, 384, (3, 9))
    labels[0, :5] = -100
    layer = model.transformer.output_layer
    results = []
    for max_chunk_logits in (2**26, 5 * 384, 1):
        loss = labelled_loss(hidden, labels, layer, max_chunk_logits=max_chunk_logits)
        loss.backward()
        assert hidden.grad is not None
        results.append((loss.detach(), hidden.grad.clone(), layer.weight.grad.clone()))
        hidden.grad = layer.weight.grad = None
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_batch_without_labels_has_loss_zero_and_no_gradient(model: Any) -> None:
    labels = torch.full((2, 5), -100)
    loss = model(torch.ones(2, 5, dtype=torch.long), labels=labels).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


def test_embeddings_may_be_given_instead_of_ids(model: Any) -> None:
    inputs = batch("left")
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    with torch.no_grad():
        assert torch.equal(
            model(inputs_embeds=embeddings, **inputs).logits, model(**batch("left")).logits
        )
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        model()


def test_only_the_logits_asked_for_are_computed(model: Any) -> None:
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        full = model(ids).logits
        assert torch.allclose(model(ids, logits_to_keep=2).logits, full[:, -2:], atol=1e-6)
        kept = torch.tensor([0, 3])
        assert torch.allclose(model(ids, logits_to_keep=kept).logits, full[:, kept], atol=1e-6)


def test_a_sequence_beyond_the_position_table_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"at most seq_length=128 tokens, but got 129: shorten"):
        model(torch.ones(1, 129, dtype=torch.long))


def test_hidden_states_and_attentions_come_out_when_asked(model: Any) -> None:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(torch.tensor(ROWS[:1]), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in output.hidden_states] == [(1, 6, 32)] * 3
    assert [probabilities.shape for probabilities in output.attentions] == [(1, 4, 6, 6)] * 2


def test_sampling_is_seeded_and_beams_find_no_worse_a_sequence(model: Any) -> None:
    ids = torch.tensor(ROWS[:1])
    settings: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    sampled = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sampled.append(model.generate(ids, do_sample=True, top_k=0, **settings).tolist())
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]

    def log_likelihood(sequence: torch.Tensor) -> float:
        with torch.no_grad():
            scores = model(sequence).logits[0, 5:-1].log_softmax(-1)
        return float(scores.gather(1, sequence[0, 6:, None]).sum())

    greedy = model.generate(ids, do_sample=False, **settings)
    beams = model.generate(ids, do_sample=False, num_beams=4, **settings)
    assert log_likelihood(beams) >= log_likelihood(greedy)


def test_rope_ratio_stretches_the_rotary_base(chatglm_folder: Path) -> None:
    from raytune_glm.models.chatglm.attention import rotary_tables

    config: Any = load_model(chatglm_folder).config
    config.kv_channels, config.rope_ratio = 128, 50.0
    cos, _ = rotary_tables(config, torch.tensor([[1]]))
    expected = [torch.cos(torch.tensor(1 / (500_000 ** (2 * pair / 64)))) for pair in range(32)]
    assert torch.allclose(cos[0, 0, 0], torch.stack(expected), atol=1e-6)


def test_switches_of_another_architecture_are_refused() -> None:
    from raytune_glm.models.chatglm.configuration import ChatGLMConfig

    with pytest.raises(
        ModelError, match=r"`rmsnorm` must be True .* config.json has rmsnorm=False"
    ):
        ChatGLMConfig(rmsnorm=False)
