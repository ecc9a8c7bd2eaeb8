"""Softmax cross entropy, the baseline of the BAGS and GOL papers (``BBoxHead`` of mmdetection)."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier, constant_
from benchmark.statistics import ClassStatistics


class Softmax(LinearClassifier):
    """One softmax over C categories and background: logits (N, C + 1), background last.

    Args:
        initial_weight: of the classifier, every one; None for N(0, 0.01) and bias 0.
        initial_bias: with it, likewise every one.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        initial_weight: float | None = None,
        initial_bias: float = 0.0,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        if initial_weight is not None:
            constant_(self.linear, initial_weight, initial_bias)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(z_n, y_n); 0 without proposals."""
        return {"loss_cls": F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """p_n = softmax(z_n)."""
        return logits.softmax(dim=1)
