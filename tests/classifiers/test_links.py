"""The loss and the gradient of the Gumbel link equal the released ones, including the floor."""

from functools import partial
from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from torch import Tensor

from benchmark.classifiers import gumbel, gumbel_loss, mean_up_to, normal, normal_loss

CLOSE = tolerance("gol")


def _table(case: dict[str, Any], column: str) -> Tensor:
    return torch.tensor([row[column] for row in case["expected"]["rows"]], dtype=torch.float64)


def _loss_and_gradient(case: dict[str, Any], dtype: torch.dtype, **options: float) -> tuple[Tensor, Tensor]:
    logits = _table(case, "logit").to(dtype).requires_grad_()
    losses = gumbel_loss(logits, _table(case, "target").to(dtype), **options)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach().double(), gradient.double()


@pytest.mark.parametrize("case", golden_cases("gol", "gumbel_elementwise_numerics"))
def test_elements_equal_the_original(case: dict[str, Any]) -> None:
    losses, gradients = _loss_and_gradient(case, torch.float64)
    torch.testing.assert_close(losses, _table(case, "loss_float64"), **CLOSE)
    torch.testing.assert_close(gradients, _table(case, "grad_float64"), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("gol", "gumbel_elementwise_numerics"))
def test_float32_is_as_good_as_the_original(case: dict[str, Any]) -> None:
    losses, gradients = _loss_and_gradient(case, torch.float32)
    torch.testing.assert_close(losses, _table(case, "loss_float32"), rtol=1e-3, atol=1e-7)
    original = _table(case, "grad_float32")
    visible = original.abs() >= 1e-6
    torch.testing.assert_close(gradients[visible], original[visible], rtol=1e-3, atol=0)


@pytest.mark.parametrize("case", golden_cases("gol", "gumbel_elementwise_numerics"))
def test_without_floor_the_gradient_is_exact(case: dict[str, Any]) -> None:
    losses, gradients = _loss_and_gradient(case, torch.float64, floor=0.0)
    torch.testing.assert_close(losses, _table(case, "analytic_loss"), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, _table(case, "analytic_grad"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_logit_is_finite(dtype: torch.dtype) -> None:
    for value in (-1e4, -100.0, -4.0, 0.0, 10.0, 100.0, 1e4):
        for target in (0.0, 1.0):
            for function in (gumbel_loss, partial(gumbel_loss, floor=0.0, least=-10.0), normal_loss):
                logits = torch.tensor([value], dtype=dtype, requires_grad=True)
                loss = function(logits, torch.tensor([target], dtype=dtype))
                loss.sum().backward()
                assert loss.isfinite().all()
                assert loss.item() >= 0
                assert logits.grad is not None
                assert logits.grad.isfinite().all()
    for link in (gumbel, normal):
        scores = link(torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], dtype=dtype))
        assert scores.tolist() == sorted(scores.tolist())
        assert (scores[0].item(), scores[-1].item()) == (0, 1)


def test_the_losses_are_the_cross_entropies_of_their_links() -> None:
    z = torch.linspace(-3, 4, 50, dtype=torch.float64)
    for link, loss in ((gumbel, gumbel_loss), (normal, normal_loss)):
        torch.testing.assert_close(loss(z, torch.ones_like(z)), -link(z).log())
        torch.testing.assert_close(loss(z, torch.zeros_like(z)), -(1 - link(z)).log())


def test_a_mean_beyond_its_limit_has_no_gradient() -> None:
    losses = torch.full((2, 3), 7.0, requires_grad=True)
    for limit, value, gradient in ((20.0, 20.0, 0.0), (22.0, 21.0, 0.5)):
        mean = mean_up_to(losses, limit)
        assert mean.item() == value
        assert torch.autograd.grad(mean, losses)[0].unique().tolist() == [gradient]
    assert mean_up_to(losses[:0], 20.0).item() == 0
