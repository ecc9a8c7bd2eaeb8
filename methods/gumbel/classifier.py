"""Gumbel activation (ECCV 2022): binary cross entropy of every category and of background, p = exp(-exp(-z)).

The gradient of a positive is exp(-z), unbounded towards low scores where rare categories start; a sigmoid's
is at most 1. ``gumbel_ce.py`` and ``class_relative_activations.py`` of the release.
"""

import torch
from torch import Tensor

from benchmark.classifiers import (
    RELEASED_FLOOR,
    LinearClassifier,
    constant_,
    gumbel,
    gumbel_loss,
    mean_up_to,
    normal,
    normal_loss,
    one_hot,
)
from benchmark.statistics import ClassStatistics


class GumbelCrossEntropy(LinearClassifier):
    """Logits (N, C + 1); background is a category like any other, positive in the rows of background.

    Args:
        initial_weight: of the classifier, every one.
        initial_bias: likewise; p(-2) = 6.2e-4.
        loss_limit: a larger loss is cut to this value, and the step has no classification gradient.
        gradient_floor: of p (1 - p) in the gradient; 0 for the exact one.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        initial_weight: float = 0.001,
        initial_bias: float = -2.0,
        loss_limit: float = 20.0,
        gradient_floor: float = RELEASED_FLOOR,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        constant_(self.linear, initial_weight, initial_bias)
        self.loss_limit = loss_limit
        self.gradient_floor = gradient_floor

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = min((1/N) sum_nj bce(p(z_nj), t_nj), limit), t one-hot over categories and background."""
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        return {"loss_cls": mean_up_to(self.element_losses(logits, targets), self.loss_limit)}

    def element_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of every element (N, C + 1)."""
        return gumbel_loss(logits, targets, self.gradient_floor)

    def scores(self, logits: Tensor) -> Tensor:
        """p_nj = exp(-exp(-z_nj)), not clamped; rows do not sum to 1."""
        return gumbel(logits)


class ClassRelative(GumbelCrossEntropy):
    """The normal distribution function for frequent categories, the Gumbel link for others and background.

    Args:
        initial_weight: of the classifier, every one.
        initial_bias: likewise.
        loss_limit: a larger loss is cut to this value.
        gradient_floor: as above, of the Gumbel columns; the normal link does not reach it.
        frequent_images: a category with more training images is frequent.
    """

    frequent: Tensor  # (C + 1,) bool

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        initial_weight: float = 0.001,
        initial_bias: float = -3.0,
        loss_limit: float = 25.0,
        gradient_floor: float = RELEASED_FLOOR,
        frequent_images: int = 100,
    ) -> None:
        super().__init__(in_features, statistics, initial_weight, initial_bias, loss_limit, gradient_floor)
        frequent = [*(statistics.image_counts > frequent_images).tolist(), False]
        self.register_buffer("frequent", torch.tensor(frequent), persistent=False)

    def element_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of every element (N, C + 1) under the link of its column."""
        return torch.where(
            self.frequent, normal_loss(logits, targets), super().element_losses(logits, targets)
        )

    def scores(self, logits: Tensor) -> Tensor:
        """The link of each column, not clamped."""
        return torch.where(self.frequent, normal(logits), gumbel(logits))
