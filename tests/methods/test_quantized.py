"""Methods that leave the base as it is train on one of 8 bits, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.errors import ConfigError
from raytune_glm.methods import Full
from raytune_glm.models import load_model
from tests.methods.conftest import Base, batch
from tests.methods.test_contract import EXAMPLES, logits, train, trained


@pytest.mark.parametrize("architecture", ["chatglm3", "llama"])
@pytest.mark.parametrize("example", ["lora", "p_tuning_v2_projected", "prompt_tuning"])
def test_a_method_trains_on_an_int8_base_and_comes_back(
    bases: dict[str, Base], architecture: str, example: str, tmp_path: Path
) -> None:
    base, method = bases[architecture], EXAMPLES[example]
    torch.manual_seed(3)
    model: Any = method.apply(load_model(base.folder, quantization="int8"), base.family)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    model.activation_checkpointing_enable()
    losses = train(model, example, steps=6)
    assert losses[-1] < losses[0]
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in frozen.items())
    method.save(model, {n: p.detach() for n, p in trained(model).items()}, tmp_path)
    again = method.load(load_model(base.folder, quantization="int8"), tmp_path)
    torch.testing.assert_close(logits(again, batch()), logits(model, batch()), rtol=0, atol=1e-4)


def test_quantized_weights_are_not_trained_themselves(bases: dict[str, Base]) -> None:
    base = bases["llama"]
    with pytest.raises(ConfigError, match=r"weights of the base must not be quantized .* is torch"):
        Full().apply(load_model(base.folder, quantization="int8"), base.family)
