"""Equalization loss (CVPR 2020) as in GOL's release (``eql.py``), with sigmoids or the Gumbel link."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import (
    RELEASED_FLOOR,
    LinearClassifier,
    constant_,
    foreground_weights,
    gumbel,
    gumbel_loss,
    one_hot,
    sigmoid_loss,
)
from benchmark.statistics import ClassStatistics, infrequent_categories


class Equalization(LinearClassifier):
    """C independent sigmoids; foreground rows do not suppress infrequent categories.

    Args:
        frequency_threshold: lambda; categories in a smaller fraction of the annotated images are infrequent.
        cosine: for logits that are scaled cosines, as in ``LinearClassifier``.
    """

    infrequent: Tensor  # (C,) bool

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        frequency_threshold: float = 0.0011,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes, cosine=cosine)
        infrequent = infrequent_categories(statistics, frequency_threshold)
        self.register_buffer("infrequent", torch.as_tensor(infrequent), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj v_nj bce(p(z_nj), t_nj), background rows counted in N.

        v = 0 for the negatives of infrequent categories in foreground rows; background rows keep everything.
        """
        targets = one_hot(labels, self.num_classes, logits.dtype)
        losses = foreground_weights(targets, self.infrequent) * self.element_losses(logits, targets)
        return {"loss_cls": losses.sum() / max(len(labels), 1)}

    def element_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of every element (N, C)."""
        return sigmoid_loss(logits, targets)

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z_nj), and 0 for background."""
        return F.pad(logits.sigmoid(), (0, 1))


class GumbelEqualization(Equalization):
    """The same with p = exp(-exp(-z)).

    Args:
        frequency_threshold: lambda, as above.
        initial_weight: initial value of all weights of the classifier.
        initial_bias: initial value of all biases; p(-2) = 6.2e-4.
        gradient_floor: least value of p (1 - p) in the gradient; 0 for the exact gradient.
        cosine: as above.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        frequency_threshold: float = 0.0011,
        initial_weight: float = 0.001,
        initial_bias: float = -2.0,
        gradient_floor: float = RELEASED_FLOOR,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, frequency_threshold, cosine)
        constant_(self.linear, initial_weight, initial_bias)
        self.gradient_floor = gradient_floor

    def element_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of every element (N, C)."""
        return gumbel_loss(logits, targets, self.gradient_floor)

    def scores(self, logits: Tensor) -> Tensor:
        """exp(-exp(-z_nj)), not clamped, and 0 for background."""
        return F.pad(gumbel(logits), (0, 1))
