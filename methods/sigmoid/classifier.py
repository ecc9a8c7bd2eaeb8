"""Independent sigmoids without a background output: stage 1 of BALMS (``projects/BALMS`` of its release)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import LinearClassifier, one_hot
from benchmark.statistics import ClassStatistics


class Sigmoid(LinearClassifier):
    """C independent sigmoids: logits (N, C); background is the absence of every category.

    Args:
        prior_probability: initial score p of every category; the bias starts at -log((1 - p) / p).
    """

    def __init__(
        self, in_features: int, statistics: ClassStatistics, prior_probability: float = 0.001
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes)
        nn.init.constant_(self.linear.bias, -math.log((1 - prior_probability) / prior_probability))

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n sum_j bce(z_nj, t_nj), t the one-hot rows; divided by all proposals, not by C."""
        targets = one_hot(labels, self.num_classes, logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z_nj), and 0 for background."""
        return F.pad(logits.sigmoid(), (0, 1))
