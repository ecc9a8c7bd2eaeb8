"""DropLoss (AAAI 2021) with sigmoids, as in GOL's release (``droploss.py``)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier, constant_, one_hot, random_weights, sigmoid_loss
from benchmark.statistics import ClassStatistics, infrequent_categories


class DropLoss(LinearClassifier):
    """C independent sigmoids; negatives of infrequent categories count only in some of the background rows.

    Args:
        frequency_threshold: lambda; categories in a smaller fraction of the annotated images are infrequent.
        initial_weight: initial value of all weights of the classifier.
        initial_bias: initial value of all biases; the score at -6.9 is 0.001.
    """

    infrequent: Tensor  # (C,) bool

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        frequency_threshold: float = 0.0011,
        initial_weight: float = 0.01,
        initial_bias: float = -6.9,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes)
        constant_(self.linear, initial_weight, initial_bias)
        infrequent = infrequent_categories(statistics, frequency_threshold)
        self.register_buffer("infrequent", torch.as_tensor(infrequent), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``drop_loss`` with new uniform numbers for every element."""
        return {"loss_cls": self.drop_loss(logits, labels, torch.rand_like(logits))}

    def drop_loss(self, logits: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
        """L = (1/N) sum_nj v_nj bce(sigmoid(z_nj), t_nj), background rows counted in N.

        v = 0 for the negatives of infrequent categories in foreground rows and, where u > rho, in background
        rows; rho is the part of the foreground rows whose category is infrequent.
        """
        targets = one_hot(labels, self.num_classes, logits.dtype)
        weights = random_weights(targets, self.infrequent, uniform)
        return (weights * sigmoid_loss(logits, targets)).sum() / max(len(labels), 1)

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z_nj), and 0 for background."""
        return F.pad(logits.sigmoid(), (0, 1))
