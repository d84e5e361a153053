"""The norm with a backward pass of its own, held to torch's norm and autograd."""

from __future__ import annotations

import pytest
import torch

from raytune_glm.models.chatglm.norm import ChatGLMRMSNorm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_torchs_norm(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    norm = ChatGLMRMSNorm(24, eps=1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
    hidden = (3 * torch.randn(2, 5, 24)).to(dtype).requires_grad_()
    gradient = torch.randn(2, 5, 24).to(dtype)
    reference = [hidden.detach().double(), norm.weight.detach().double()]
    inputs = [tensor.requires_grad_() for tensor in reference]
    expected = torch.nn.functional.rms_norm(inputs[0], (24,), inputs[1], eps=1e-5)
    given = norm(hidden)
    assert given.dtype == dtype
    assert torch.allclose(given.double(), expected, atol=tolerance, rtol=tolerance)
    found = torch.autograd.grad(given, [hidden, norm.weight], gradient)
    wanted = torch.autograd.grad(expected, inputs, gradient.double())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert torch.allclose(one.double(), other, atol=10 * tolerance, rtol=tolerance)


def test_a_frozen_norm_gives_the_gradient_of_what_it_norms_alone() -> None:
    norm = ChatGLMRMSNorm(8, eps=1e-5).requires_grad_(requires_grad=False)
    hidden = torch.randn(1, 3, 8, requires_grad=True)
    norm(hidden).square().sum().backward()
    assert hidden.grad is not None
    assert norm.weight.grad is None
