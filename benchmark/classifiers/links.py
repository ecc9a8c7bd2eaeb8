"""Links from logits to probabilities and the cross entropy of every element (ECCV 2022, arXiv 2207.10936).

Every loss takes logits and targets of one shape, targets 1 or 0, and returns the loss of each element.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_GUMBEL_LOGIT, LARGEST_GUMBEL_LOGIT = -4.0, 10.0
NORMAL_RANGE = (-5.0, 5.0)
RELEASED_FLOOR = 1e-12  # of p (1 - p) in the gradient of PyTorch's cross entropy in probability space


def gumbel(logits: Tensor) -> Tensor:
    """Gumbel distribution function p = exp(-exp(-z)), not clamped; any shape."""
    return torch.exp(-torch.exp(-logits))


def gumbel_loss(
    logits: Tensor, targets: Tensor, floor: float = RELEASED_FLOOR, least: float = LEAST_GUMBEL_LOGIT
) -> Tensor:
    """Cross entropy of p = exp(-e) with e = exp(-z), z clamped to [least, 10]; no gradient outside.

        target 1:  -log p = e                  dloss/dz = -e
        target 0:  -log(1 - exp(-e))           dloss/dz = e / (exp(e) - 1)

    The released code divides by max(p (1 - p), 1e-12) in its gradient, which is therefore the above times
    min(1, p (1 - p) / floor): a positive below z = -3.4 has almost no gradient. The value is not affected.

    Args:
        logits: any shape.
        targets: the same shape, 1 or 0.
        floor: 1e-12 as released, 0 for the exact gradient.
        least: logit below which z is clamped.
    """
    z = logits.clamp(least, LARGEST_GUMBEL_LOGIT)
    if floor > 0:
        e = torch.exp(-z.detach())
        z = _scale_gradient(z, (-torch.expm1(-e) * torch.exp(-e) / floor).clamp(max=1))
    e = torch.exp(-z)
    return torch.where(targets.bool(), e, -_log_one_minus_exp(e))


def normal(logits: Tensor) -> Tensor:
    """Standard normal distribution function p = (1 + erf(z / sqrt 2)) / 2, not clamped; any shape."""
    return (1 + torch.erf(logits / math.sqrt(2))) / 2


def normal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the normal link, z clamped to [-5, 5]; no gradient outside, no floor inside."""
    z = logits.clamp(*NORMAL_RANGE)
    return -torch.special.log_ndtr(torch.where(targets.bool(), z, -z))


def sigmoid_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the logistic link p = 1 / (1 + exp(-z))."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def mean_up_to(losses: Tensor, limit: float) -> Tensor:
    """(1/N) sum of element losses (N, L), clamped to at most ``limit``; above it the gradient is 0."""
    return (losses.sum() / max(len(losses), 1)).clamp(max=limit)


def _log_one_minus_exp(e: Tensor) -> Tensor:
    """log(1 - exp(-e)) for e > 0, value and gradient exact at both ends."""
    return torch.where(e > math.log(2), torch.log1p(-torch.exp(-e)), torch.log(-torch.expm1(-e)))


def _scale_gradient(values: Tensor, factors: Tensor) -> Tensor:
    """The same values, with their gradient multiplied by ``factors``."""
    constant = values.detach()
    return constant + factors * (values - constant)
