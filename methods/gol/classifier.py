"""Gumbel Optimized Loss (ECCV 2022): DropLoss, with p = exp(-exp(-z)) in place of the sigmoid.

``droploss.py`` of the release, with its Gumbel activation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import (
    LEAST_GUMBEL_LOGIT,
    RELEASED_FLOOR,
    LinearClassifier,
    constant_,
    gumbel,
    gumbel_loss,
    one_hot,
    random_weights,
)
from benchmark.statistics import ClassStatistics, infrequent_categories


class GumbelDropLoss(LinearClassifier):
    """Logits (N, C); negatives of infrequent categories count only in some of the background rows.

    Args:
        frequency_threshold: lambda; categories in a smaller fraction of the annotated images are infrequent.
        initial_weight: initial value of all weights of the classifier.
        initial_bias: initial value of all biases; p(-2) = 6.2e-4.
        gradient_floor: least value of p (1 - p) in the gradient; 0 for the exact gradient.
        least_logit: smaller logits are clamped to this value in the loss and have no gradient.
    """

    infrequent: Tensor  # (C,) bool

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        frequency_threshold: float = 0.0011,
        initial_weight: float = 0.001,
        initial_bias: float = -2.0,
        gradient_floor: float = RELEASED_FLOOR,
        least_logit: float = LEAST_GUMBEL_LOGIT,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes)
        constant_(self.linear, initial_weight, initial_bias)
        self.gradient_floor, self.least_logit = gradient_floor, least_logit
        infrequent = infrequent_categories(statistics, frequency_threshold)
        self.register_buffer("infrequent", torch.as_tensor(infrequent), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``drop_loss`` with fresh uniform numbers for every element."""
        return {"loss_cls": self.drop_loss(logits, labels, torch.rand_like(logits))}

    def drop_loss(self, logits: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
        """L = (1/N) sum_nj v_nj bce(p(z_nj), t_nj), background rows counted in N.

        v = 0 for the negatives of infrequent categories in foreground rows and, where u > rho, in background
        rows; rho is the part of the foreground rows whose category is infrequent.
        """
        targets = one_hot(labels, self.num_classes, logits.dtype)
        weights = random_weights(targets, self.infrequent, uniform)
        losses = gumbel_loss(logits, targets, self.gradient_floor, self.least_logit)
        return (weights * losses).sum() / max(len(labels), 1)

    def scores(self, logits: Tensor) -> Tensor:
        """exp(-exp(-z_nj)), not clamped, and 0 for background."""
        return F.pad(gumbel(logits), (0, 1))
