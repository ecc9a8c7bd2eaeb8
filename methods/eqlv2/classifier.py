"""Equalization loss v2 (CVPR 2021): balances the gradients that a category gets as positive and as negative.

``eqlv2.py`` of the release. Counts are not used: the balance is measured during training.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import (
    LinearClassifier,
    RunningSum,
    one_hot,
    scores_without_background,
    sigmoid_loss,
)
from benchmark.statistics import ClassStatistics

START = 100.0  # ratio before the first step, at which all weights are 1
TINY = 1e-10


class GradientBalance(LinearClassifier):
    """Logits (N, C + 1) of independent sigmoids; the last is background ("objectness" in the release).

    Args:
        prior_probability: initial score p of every output; the biases start at -log((1 - p) / p).
        gamma: steepness of the weight of negatives.
        mu: ratio at which that weight is 1/2.
        alpha: largest additional weight of a positive.
        objectness: whether background lowers the scores of the categories.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        prior_probability: float = 0.001,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        objectness: bool = True,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        nn.init.constant_(self.linear.bias, -math.log((1 - prior_probability) / prior_probability))
        self.gamma, self.mu, self.alpha, self.objectness = gamma, mu, alpha, objectness
        self.positive = RunningSum(self.num_classes)
        self.negative = RunningSum(self.num_classes)
        self.rois = RunningSum()

    def ratio(self) -> Tensor:
        """r_j = P_j / (M_j + 1e-10), (C,): of the gradient magnitudes so far; 100 before the first step."""
        ratio = self.positive.value / (self.negative.value + TINY)
        return torch.where(self.rois.value > 0, ratio, START)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Of negatives, g_j = sigmoid(gamma (r_j - mu)), and of positives, q_j = 1 + alpha (1 - g_j).

        Both (C + 1,); background's are 1.
        """
        negative = torch.sigmoid(self.gamma * (self.ratio() - self.mu))
        positive = 1 + self.alpha * (1 - negative)
        return F.pad(negative, (0, 1), value=1.0), F.pad(positive, (0, 1), value=1.0)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj w_nj bce(z_nj, t_nj) with w = q t + g (1 - t), t one-hot with background.

        P and M collect w |sigmoid(z) - t| of the positives and of the negatives of each category: not divided
        by N, with the weights that feed back into the ratio, as released.
        """
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        of_negatives, of_positives = self.weights()
        weights = of_positives * targets + of_negatives * (1 - targets)
        magnitudes = (weights * (logits.detach().sigmoid() - targets).abs())[:, :-1]
        self.positive.add((magnitudes * targets[:, :-1]).sum(dim=0))
        self.negative.add((magnitudes * (1 - targets[:, :-1])).sum(dim=0))
        self.rois.add(torch.tensor(len(labels)))
        return {"loss_cls": (weights * sigmoid_loss(logits, targets)).sum() / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """p_nj (1 - p_nC), or p_nj, with p = sigmoid(z); rows do not sum to 1."""
        return scores_without_background(logits.sigmoid()) if self.objectness else logits.sigmoid()
