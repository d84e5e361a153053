"""Methods that leave the base as it is train on one of 8 or 4 bits, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from raytune_glm.errors import ConfigError
from raytune_glm.methods import Full
from raytune_glm.models import load_model
from tests.methods.conftest import EVERY_FAMILY, Base, batch
from tests.methods.test_contract import EXAMPLES, logits, train, trained


@pytest.mark.parametrize(
    "example", ["lora", "p_tuning_v2", "p_tuning_v2_projected", "prompt_tuning"]
)
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("base", EVERY_FAMILY, indirect=True)
def test_a_method_trains_on_a_quantized_base_and_comes_back(
    base: Base, quantization: Literal["int8", "nf4"], example: str, tmp_path: Path
) -> None:
    if example == "prompt_tuning" and base.family.needs_token_ids:
        pytest.skip("prompt tuning refuses ChatGLM-6B; its own test shows it")
    method = EXAMPLES[example]
    torch.manual_seed(3)
    loaded = load_model(base.folder, quantization=quantization)
    model: Any = method.apply(loaded, base.family)
    assert {n: p.numel() for n, p in trained(model).items()} == method.trained(
        base.shape, base.family
    )
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    model.activation_checkpointing_enable()
    losses = train(model, example, steps=20)
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in frozen.items())
    method.save(model, {n: p.detach() for n, p in trained(model).items()}, tmp_path)
    again = method.load(load_model(base.folder, quantization=quantization), tmp_path)
    torch.testing.assert_close(logits(again, batch()), logits(model, batch()), rtol=0, atol=1e-4)


def test_quantized_weights_are_not_trained_themselves(bases: dict[str, Base]) -> None:
    base = bases["llama"]
    with pytest.raises(ConfigError, match=r"weights of the base must not be quantized .* is torch"):
        Full().apply(load_model(base.folder, quantization="int8"), base.family)
