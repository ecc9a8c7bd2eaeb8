"""Inverse image frequency (TIP 2023): logits are multiplied by how rare their category is.

``iif_loss.py`` of the release, without FASA, the feature augmentation that its published rows add.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, constant_
from benchmark.statistics import ClassStatistics, counts_and_total, rarity


class InverseImageFrequency(CategoricalClassifier):
    """Logits (N, C + 1), background last, whose weight is 1.

    Args:
        link: scale of the weights, as ``rarity`` has it.
        counts: ``images``: a category's share of all training images; ``instances``: of all instances.
        initial_weight: of the classifier, every one; None for N(0, 0.01).
        cosine: for logits that are scaled cosines, as in ``LinearClassifier``.
    """

    weights: Tensor  # w (C + 1,) float64

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        link: str = "raw",
        counts: str = "images",
        initial_weight: float | None = None,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        if initial_weight is not None:
            constant_(self.linear, initial_weight, 0.0)
        weights = torch.as_tensor(rarity(link, *counts_and_total(statistics, counts)))
        self.register_buffer("weights", F.pad(weights, (0, 1), value=1.0), persistent=False)

    def weighted(self, logits: Tensor) -> Tensor:
        """w * z, (N, C + 1)."""
        return self.weights.to(logits.dtype) * logits

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(w * z_n, y_n)."""
        return super().loss(self.weighted(logits), labels)

    def scores(self, logits: Tensor) -> Tensor:
        """softmax(w * z): the same weights as in training."""
        return self.weighted(logits).softmax(dim=1)
