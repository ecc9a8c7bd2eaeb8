"""One independent sigmoid for every category, and its correction for the frequency of categories."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers.interface import LinearClassifier
from benchmark.statistics import ClassStatistics, image_frequencies


class PerCategoryClassifier(LinearClassifier):
    """Logits (N, C) without a background output: background is the absence of every category.

    Args:
        prior_probability: initial score p of every category; the bias starts at -log((1 - p) / p).
    """

    def __init__(
        self, in_features: int, statistics: ClassStatistics, prior_probability: float = 0.001
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes)
        nn.init.constant_(self.linear.bias, -math.log((1 - prior_probability) / prior_probability))

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z_nj), and 0 for background."""
        return F.pad(logits.sigmoid(), (0, 1))


class BalancedPerCategoryClassifier(PerCategoryClassifier):
    """The same, with logits that a loss may lower by the log-odds that an image does not contain the
    category.

    Training on lowered and testing on raw logits removes the class prior of the training images.
    """

    frequency: Tensor  # f (C,) float32 in (0, 1), share of the annotated training images with the category

    def __init__(
        self, in_features: int, statistics: ClassStatistics, prior_probability: float = 0.001
    ) -> None:
        super().__init__(in_features, statistics, prior_probability)
        self.register_buffer("frequency", torch.from_numpy(image_frequencies(statistics)), persistent=False)

    def adjusted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """z~_nj = z_nj - a_j with a_j = log((1 - f_j) / f_j) in foreground rows, z_nj in background rows.

        All columns of a foreground row are lowered, the positive one too. f is kept in float32 and the offset
        computed in the precision of the logits, as released.
        """
        f = self.frequency.to(logits.dtype)
        foreground = labels[:, None] < self.num_classes
        return logits - foreground * torch.log((1 - f) / f)
