"""Linears that compute by oneDNN, against PyTorch's own in double precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raytune_glm.models import linears, load_model
from raytune_glm.models.linears import FullWidthLinear, product, speed_up_linears
from tests.shipped import MODEL


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of products that oneDNN was given, on a CPU of any width."""
    monkeypatch.setattr(linears, "_has_wider_vectors", lambda: True)
    multiply = torch.ops.mkldnn._linear_pointwise
    seen: list[tuple[int, ...]] = []

    def counted(inputs: Tensor, weight_OI: Tensor, *rest: Any) -> Tensor:
        seen.append((*inputs.shape, len(weight_OI)))
        product: Tensor = multiply(inputs, weight_OI, *rest)
        return product

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return seen


SIZES = [(2, 161, 192, 384), (1, 1952, 192, 1024), (2, 61, 192, 384)]
"""Rows, tokens, inputs, outputs; the last is too small for oneDNN to pay."""


@pytest.mark.parametrize(("is_intels", "kind"), [(True, nn.Linear), (False, FullWidthLinear)])
def test_intels_processors_stay_with_mkl(
    monkeypatch: pytest.MonkeyPatch, is_intels: bool, kind: type[nn.Linear]
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(linears, "_is_intels", lambda: is_intels)
    monkeypatch.setattr(linears, "_has_wider_vectors", linears._has_wider_vectors.__wrapped__)
    model = nn.Sequential(nn.Linear(192, 384))
    speed_up_linears(model)
    assert type(model[0]) is kind


def relative_error(found: Tensor, exact: Tensor) -> float:
    exact = exact.detach()
    return float((found.detach().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_all_gradients_are_those_of_the_plain_linear(
    calls: list[tuple[int, ...]], size: tuple[int, int, int, int], has_bias: bool
) -> None:
    rows, tokens, num_inputs, num_outputs = size
    torch.manual_seed(0)
    plain = nn.Linear(num_inputs, num_outputs, bias=has_bias)
    exact = copy.deepcopy(plain).double()
    full = FullWidthLinear(plain)
    inputs = torch.randn(rows, tokens, num_inputs)
    gradient = torch.randn(rows, tokens, num_outputs)
    given = inputs.clone().requires_grad_()
    expected = inputs.double().requires_grad_()
    exact(expected).backward(gradient.double())
    full(given).backward(gradient)
    assert relative_error(full(inputs), exact(inputs.double())) < 3e-6
    assert given.grad is not None
    assert expected.grad is not None
    assert relative_error(given.grad, expected.grad) < 3e-6
    for name, parameter in exact.named_parameters():
        found = full.get_parameter(name).grad
        assert found is not None
        assert parameter.grad is not None
        assert relative_error(found, parameter.grad) < 3e-6
    pays = rows * tokens * num_inputs * num_outputs >= 2**24
    assert len(calls) == (4 if pays else 0)  # two forward, one back to the input, one the weight


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_model_may_write_to_the_output(has_bias: bool, calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    full = FullWidthLinear(nn.Linear(192, 384, bias=has_bias))
    inputs = torch.randn(1, 300, 192, requires_grad=True)
    full(inputs).clamp_(min=0).sum().backward()
    passed = (full(inputs) > 0).double()
    assert inputs.grad is not None
    assert full.weight.grad is not None
    assert relative_error(inputs.grad, passed @ full.weight.double()) < 3e-6
    assert relative_error(full.weight.grad, passed[0].T @ inputs[0].double()) < 3e-6
    assert calls


def test_a_weight_learns_from_a_gradient_that_is_one_number(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    full = FullWidthLinear(nn.Linear(192, 384))
    inputs = torch.randn(1, 300, 192)
    full(inputs).sum().backward()  # expanded, with strides of 0
    assert full.weight.grad is not None
    assert relative_error(full.weight.grad, inputs.double().sum((0, 1)).expand(384, 192)) < 3e-6
    assert len(calls) == 2


def test_a_frozen_linear_has_no_gradient_and_passes_one_on(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    full = FullWidthLinear(nn.Linear(192, 384)).requires_grad_(requires_grad=False)
    inputs = torch.randn(1, 300, 192, requires_grad=True)
    full(inputs).sum().backward()
    assert full.weight.grad is None
    assert inputs.grad is not None
    expected = full.weight.double().sum(0).expand(1, 300, 192)
    assert relative_error(inputs.grad, expected) < 3e-6
    assert len(calls) == 2


def test_inputs_and_weights_may_be_views_of_any_order(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(192, 500).T
    weight_OI = torch.randn(192, 300).T
    exact = inputs.double() @ weight_OI.double().T
    assert relative_error(product(inputs, weight_OI), exact) < 3e-6
    assert calls == [(500, 192, 300)]


def test_a_model_keeps_its_parameters_names_and_output(calls: list[tuple[int, ...]]) -> None:
    plain = load_model(MODEL)
    faster = load_model(MODEL)
    speed_up_linears(faster)
    assert [name for name, _ in faster.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    assert all(
        isinstance(faster.get_submodule(name), nn.Linear)
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear)
    )
    ids = torch.arange(5, 1205).view(4, 300)
    with torch.inference_mode():
        found, expected = faster(input_ids=ids).logits, plain(input_ids=ids).logits
    assert relative_error(found, expected.double()) < 1e-5
    assert len(calls) == sum(isinstance(module, nn.Linear) for module in plain.modules())


def test_tied_weights_stay_tied_and_linears_of_other_types_stay(
    calls: list[tuple[int, ...]],
) -> None:
    class Scaled(nn.Linear):
        pass

    model = nn.ModuleDict({"words": nn.Embedding(30, 20), "head": nn.Linear(20, 30, bias=False)})
    model["other"] = Scaled(20, 20)
    model["head"].weight = model["words"].weight
    speed_up_linears(model)
    assert model["head"].weight is model["words"].weight
    assert type(model["head"]) is FullWidthLinear
    assert type(model["other"]) is Scaled
    assert not calls


def test_what_other_code_watches_over_computes_as_ever(calls: list[tuple[int, ...]]) -> None:
    """Under autocast a linear gives bf16; a weight of ZeRO-3 reaches the function it replaces."""
    torch.manual_seed(0)
    full = FullWidthLinear(nn.Linear(192, 384))
    inputs = torch.randn(1, 300, 192)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert full(inputs).dtype == torch.bfloat16
    full.weight.ds_id = 0  # as DeepSpeed marks it
    full(inputs)
    assert calls == []
