"""LogN (IJCV 2024): at test time, logits are standardised by their mean and spread over training proposals.

``logit_norm_head.py`` of the release. Nothing is learned by gradient, and no counts are used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics

SMALLEST_VARIANCE = 1e-11


class LogitNormalised(CategoricalClassifier):
    """Logits (N, C + 1) of a finished softmax model, calibrated in ``forward``; background stays as it is.

    Every head of a cascade has its own statistics; the calibrated logits are averaged.

    Args:
        cosine: of the finished model, as in ``LinearClassifier``.
    """

    mean: Tensor  # mu (C + 1,)
    variance: Tensor  # v (C + 1,)

    def __init__(
        self, in_features: int, statistics: ClassStatistics, cosine: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        self.register_buffer("mean", torch.zeros(self.num_classes + 1))
        self.register_buffer("variance", torch.ones(self.num_classes + 1))

    def forward(self, features: Tensor) -> Tensor:
        """Calibrated logits (N, C + 1) of features (N, D)."""
        return self.calibrated(self.linear(features))

    def calibrated(self, logits: Tensor) -> Tensor:
        """z'_j = (z_j - (mu_j - beta)) / sigma_j, beta the smallest mu of the categories; background's z."""
        mean, variance = self.mean[:-1].to(logits.dtype), self.variance[:-1].to(logits.dtype)
        centred = logits[:, :-1] - (mean - mean.min())
        return torch.cat([centred / variance.clamp(min=SMALLEST_VARIANCE).sqrt(), logits[:, -1:]], dim=1)

    def observe(self, logits: Tensor, momentum: float) -> None:
        """Move mean and variance towards those of raw logits z (N, C + 1); a single RoI has no variance.

        mu <- (1 - m) mu + m mean_n z_n      v <- (1 - m) v + m var_n z_n, divided by N - 1
        """
        if len(logits) > 1:
            self.mean.lerp_(logits.mean(dim=0).to(self.mean), momentum)
            self.variance.lerp_(logits.var(dim=0).to(self.variance), momentum)
