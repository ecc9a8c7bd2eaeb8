"""Independent sigmoids without a background output: stage 1 of BALMS (``projects/BALMS`` of its release)."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import PerCategoryClassifier, one_hot


class Sigmoid(PerCategoryClassifier):
    """C independent sigmoids: logits (N, C); background is the absence of every category."""

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n sum_j bce(z_nj, t_nj), t the one-hot rows; divided by all proposals, not by C."""
        targets = one_hot(labels, self.num_classes, logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}
