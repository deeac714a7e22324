import pytest
import torch
from foldcore_digits import closed_form_top_k, gradient_error


class Scaled(torch.autograd.Function):
    """The identity with a gradient that is 0.1% too large for the first sample alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        factor = torch.ones_like(cotangent)
        factor[0] += 1e-3
        return factor * cotangent


def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(16, 10, generator=generator, dtype=torch.float64)


def test_a_right_gradient_passes():
    assert gradient_error(lambda c: closed_form_top_k(c, 2, 1.0), logits()) < 1e-8


def test_a_wrong_gradient_of_one_sample_is_found():
    error = gradient_error(lambda c: Scaled.apply(closed_form_top_k(c, 2, 1.0)), logits())
    assert error == pytest.approx(1e-3, rel=1e-4)


def test_a_missing_gradient_is_an_error_of_one():
    def constant(c):
        return closed_form_top_k(c.detach(), 2, 1.0) + 0 * c

    assert gradient_error(constant, logits()) == pytest.approx(1.0)
