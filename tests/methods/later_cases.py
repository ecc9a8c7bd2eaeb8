"""Inputs of the golden cases of the later methods as tensors: labels in ``0..C``, background last."""

from typing import Any

import torch
from torch import Tensor


def matrix(values: Any, columns: int = 0) -> Tensor:
    """A float64 tensor; of an empty list, one with no rows."""
    return (
        torch.tensor(values, dtype=torch.float64) if values else torch.zeros(0, columns, dtype=torch.float64)
    )


def with_holes(values: Any) -> Tensor:
    """A float64 vector in which ``null`` (NaN or infinity) is NaN."""
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)


def check_where_known(found: Tensor, golden: Tensor, close: dict[str, float]) -> None:
    """Compare where the original is finite; ours must be finite everywhere, e.g. for a category that never
    occurs."""
    known = golden.isfinite()
    torch.testing.assert_close(found[known], golden[known], **close)
    assert found.isfinite().all()


def labels_of(case: dict[str, Any]) -> Tensor:
    """Labels (N,)."""
    return torch.tensor(case["labels"], dtype=torch.int64)


def check_loss(
    losses: dict[str, Tensor],
    logits: Tensor,
    expected: dict[str, Any],
    close: dict[str, float],
    weight: float = 1.0,
) -> None:
    """The sum of the losses times ``weight``, and its gradient, equal those of the case."""
    loss = weight * torch.stack(list(losses.values())).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), float(expected["loss"]), **close)
    torch.testing.assert_close(gradient, matrix(expected["grad_logits"], logits.shape[1]), **close)
