"""BalancedSoftmax of the BALMS release (NeurIPS 2020): despite the name, balanced per-category sigmoids."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import BalancedPerCategoryClassifier, one_hot


class BalancedSigmoid(BalancedPerCategoryClassifier):
    """C independent sigmoids, trained on logits lowered by log((1 - f) / f), tested on raw ones."""

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n sum_j bce(z~_nj, t_nj), z~ the adjusted logits; 0 without proposals."""
        targets = one_hot(labels, self.num_classes, logits.dtype)
        adjusted = self.adjusted(logits, labels)
        loss = F.binary_cross_entropy_with_logits(adjusted, targets, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}
