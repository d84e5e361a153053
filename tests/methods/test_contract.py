"""What every method must do on every architecture, whatever it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.methods import METHODS, AnyMethod, Freeze, Full, LoRA, PromptTuning, PTuningV2
from raytune_glm.models import FAMILIES
from tests.methods.conftest import EVERY_FAMILY, Base, batch, prompts

EXAMPLES: dict[str, AnyMethod] = {
    "lora": LoRA(rank=4, target_modules="all"),
    "dora": LoRA(rank=4, target_modules="attention", use_dora=True),
    "lora_with_biases": LoRA(rank=4, target_modules="attention", bias="all"),
    "lora_beside_the_norms": LoRA(rank=4, modules_to_save=("input_layernorm",)),
    "p_tuning_v2": PTuningV2(num_virtual_tokens=5, dropout=0.0),
    "p_tuning_v2_projected": PTuningV2(num_virtual_tokens=5, projection=True, dropout=0.0),
    "prompt_tuning": PromptTuning(num_virtual_tokens=5),
    "freeze": Freeze(num_trainable_layers=2),
    "freeze_by_pattern": Freeze(module_patterns=("mlp",)),
    "full": Full(),
}
RATES = {"p_tuning_v2": 0.1, "p_tuning_v2_projected": 0.01, "prompt_tuning": 0.03}
"""Learning rates for 20 steps of AdamW; 3e-3 for the others."""


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest, base: Base) -> str:
    """The name of an example that fits the architecture."""
    name = str(request.param)
    if name == "prompt_tuning" and base.family.needs_token_ids:
        pytest.skip("prompt tuning refuses ChatGLM-6B; its own test shows it")
    if name == "lora_with_biases" and not any(n.endswith(".bias") for n in base.shape.parameters):
        pytest.skip("there is no bias to train; a test of LoRA shows the refusal")
    return name


def applied(base: Base, example: str) -> tuple[AnyMethod, Any]:
    method = EXAMPLES[example]
    method.check(base.shape, base.family)
    torch.manual_seed(11)
    return method, method.apply(base.load(), base.family)


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model: Any, example: str, *, steps: int) -> list[float]:
    """Take steps of AdamW on one batch; give the loss before each."""
    model.train()
    optimizer = torch.optim.AdamW(trained(model).values(), lr=RATES.get(example, 3e-3))
    losses = []
    for _ in range(steps):
        loss = model(**batch(), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of the tokens that are no pads, row after row."""
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return model(**given, use_cache=False).logits[inputs["attention_mask"].bool()]


def test_the_table_has_an_example_of_every_method() -> None:
    assert {method.name for method in EXAMPLES.values()} == set(METHODS)


def test_every_family_is_among_the_architectures(bases: dict[str, Base]) -> None:
    assert {base.family.name for base in bases.values()} == set(FAMILIES)


@pytest.mark.parametrize("base", EVERY_FAMILY, indirect=True)
def test_a_trained_method_is_what_it_says_and_comes_back_from_disk(
    base: Base, example: str, tmp_path: Path
) -> None:
    method, model = applied(base, example)
    names = set(trained(model))
    sizes = {name: p.numel() for name, p in trained(model).items()}
    assert sizes == method.trained(base.shape, base.family)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in names}
    before = {n: p.detach().clone() for n, p in trained(model).items()}

    losses = train(model, example, steps=20)

    assert losses[-1] < 0.9 * losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)
    assert not any(torch.equal(after[name], before[name]) for name in names)

    weights = {name: after[name].detach().clone() for name in names}
    method.save(model, weights, tmp_path / "adapter")
    again = method.load(base.load(), tmp_path / "adapter")
    inputs = batch()
    torch.testing.assert_close(logits(again, inputs), logits(model, inputs), rtol=0, atol=1e-5)
    assert (logits(again, inputs) - logits(base.load(), inputs)).abs().max() > 1e-2


def test_gradients_are_the_same_with_gradient_checkpointing(base: Base, example: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        _, model = applied(base, example)
        model.train()
        if checkpointed:
            model.activation_checkpointing_enable()
        # Two forwards before a backward, as no accumulation does, but pipelines may.
        first, second = (model(**batch(), use_cache=False).loss for _ in range(2))
        (first + second).backward()
        gradients.append({name: p.grad for name, p in trained(model).items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-6), name


def test_pads_on_the_left_change_nothing(base: Base, example: str) -> None:
    _, model = applied(base, example)
    train(model, example, steps=2)
    left, right = (logits(model, batch(padding=side)) for side in ("left", "right"))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_generation_is_what_forwards_without_a_cache_give(base: Base, example: str) -> None:
    _, model = applied(base, example)
    train(model, example, steps=2)
    given = prompts()
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        generated = model.generate(**given, **options)
        ids, mask = given["input_ids"], given["attention_mask"]
        for _ in range(options["max_new_tokens"]):
            last = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1]
            ids = torch.cat((ids, last.argmax(-1, keepdim=True)), dim=1)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    assert generated.tolist() == ids[:, : generated.shape[1]].tolist()
