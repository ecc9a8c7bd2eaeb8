"""Softmax cross entropy, the baseline of the BAGS paper (``BBoxHead`` of mmdetection v1)."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier
from benchmark.statistics import ClassStatistics


class Softmax(LinearClassifier):
    """One softmax over C categories and background: logits (N, C + 1), background last."""

    def __init__(self, in_features: int, statistics: ClassStatistics) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(z_n, y_n); 0 without proposals."""
        return {"loss_cls": F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """p_n = softmax(z_n)."""
        return logits.softmax(dim=1)
