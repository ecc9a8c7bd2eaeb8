"""NorCal (NeurIPS 2021): a finished softmax model's categories are divided by a power of their image counts.

``roi_heads.py`` of the release, in log space. Background stays as it is, and the scores are normalised again.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics

Divisor = Literal["power", "effective_number"]
Quantity = Literal["exponentials", "probabilities", "logits"]


def log_divisors(counts: Tensor, divisor: Divisor, gamma: Tensor) -> Tensor:
    """log a (C + 1,), 0 for background: of n^gamma, or of the effective number (1 - gamma^n) / (1 - gamma).

    Args:
        counts: n (C,), training images of at least 1.
        divisor: which of the two.
        gamma: a number; in (0, 1) for the effective number.
    """
    if divisor == "power":
        return F.pad(gamma * counts.log(), (0, 1))
    return F.pad(torch.log((1 - gamma**counts) / (1 - gamma)), (0, 1))


def calibrated(logits: Tensor, log_divisors: Tensor, quantity: Quantity, renormalised: bool) -> Tensor:
    """Scores (N, C + 1).

        exponentials   e_j = exp(z_j) / a_j        divided by their sum, or as they are: then they exceed 1
        probabilities  p_j / a_j, p = softmax(z)   divided by their sum, which equals the former, or not
        logits         softmax(z_j / a_j)          either way

    Args:
        logits: z (N, C + 1), background last.
        log_divisors: log a (C + 1,).
        quantity: what is divided.
        renormalised: whether the scores of a row sum to 1.
    """
    if quantity == "logits":
        return (logits / log_divisors.exp()).softmax(dim=1)
    if renormalised:
        return (logits - log_divisors).softmax(dim=1)
    plain = logits if quantity == "exponentials" else logits.log_softmax(dim=1)
    return (plain - log_divisors).exp()


class NorCal(CategoricalClassifier):
    """Logits (N, C + 1) of the finished model; only the scores differ.

    Args:
        gamma: strength, unless a stage finds another one; 0 changes nothing where the divisor is a power.
        divisor: ``power``: n^gamma; ``effective_number``: (1 - gamma^n) / (1 - gamma).
        quantity: what is divided.
        renormalised: whether scores of a row sum to 1 again.
        cosine: of the finished model, as in ``LinearClassifier``.
    """

    gamma: Tensor  # a number; in checkpoints, so that they say how they are calibrated
    counts: Tensor  # n (C,) float64

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        gamma: float = 0.0,
        divisor: Divisor = "power",
        quantity: Quantity = "exponentials",
        renormalised: bool = True,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        for name, found, known in (
            ("divisor", divisor, get_args(Divisor)),
            ("quantity", quantity, get_args(Quantity)),
        ):
            if found not in known:
                raise BenchmarkError(f"unknown {name}", found=found, expected=" or ".join(known))
        if quantity == "exponentials" and not renormalised:
            raise BenchmarkError(
                "exponentials that are not normalised again exceed 1",
                remedy="renormalised: true, or quantity: probabilities",
            )
        self.divisor, self.quantity, self.renormalised = divisor, quantity, renormalised
        self.register_buffer("gamma", torch.tensor(gamma, dtype=torch.float64))
        counts = torch.as_tensor(statistics.image_counts).double().clamp(min=1)
        self.register_buffer("counts", counts, persistent=False)

    def scores(self, logits: Tensor) -> Tensor:
        """``calibrated`` scores; those of background are normalised with the others."""
        divisors = log_divisors(self.counts, self.divisor, self.gamma)
        return calibrated(logits, divisors.to(logits.dtype), self.quantity, self.renormalised)
