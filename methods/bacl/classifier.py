"""BACL's classification loss (IEEE TMM 2023): margins between categories that are confused with each other.

The foreground classification balance loss (FCBL) of the release. The confusion of categories is measured
during training; counts are not used.
"""

import math

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

LEAST_SHARE = 1e-3  # least value of a confusion; margins are at most alpha ln 1000


class BalancedForeground(LinearClassifier):
    """Logits (N, C + 1), each a sigmoid, background last.

    Args:
        alpha: factor of the margins; 0 for none.
        probability_threshold: score from which a wrong category is always suppressed; 0 for every one.
        prior_probability: initial score p of every output; the biases start at -log((1 - p) / p).
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        alpha: float = 0.85,
        probability_threshold: float = 0.7,
        prior_probability: float = 0.001,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        nn.init.constant_(self.linear.bias, -math.log((1 - prior_probability) / prior_probability))
        self.alpha, self.probability_threshold = alpha, probability_threshold
        self.predictions = RunningSum(self.num_classes, self.num_classes)
        self.foreground = RunningSum(self.num_classes)

    def confusion(self) -> Tensor:
        """A_ij (C, C): mean softmax prediction of category j over the rows of category i so far."""
        return self.predictions.value / self.foreground.value.clamp(min=1)[:, None]

    def margins(self, labels: Tensor) -> Tensor:
        """mu_nj = alpha log(A_ij / A_ji) (N, C + 1), i the row's category, both shares at least 0.001.

        0 in background rows, in background's column and for j = i.
        """
        shares = F.pad(self.confusion().clamp(min=LEAST_SHARE).log(), (0, 1, 0, 1))
        return self.alpha * (shares[labels] - shares[:, labels].T)

    def weights(self, logits: Tensor, labels: Tensor) -> Tensor:
        """w_nj (N, C + 1), 1 or 0: foreground rows suppress only rivals of their category i.

        A rival scores at least as high as i, or at least the threshold. Background rows, and background's
        column, always count.
        """
        scores = self.scores(logits)
        rivals = (scores >= scores.gather(1, labels[:, None])) | (scores >= self.probability_threshold)
        rivals |= (labels == self.num_classes)[:, None]
        rivals[:, -1] = True
        return rivals.to(logits.dtype)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj w_nj bce(z_nj + mu_nj, t_nj), t one-hot with background; w and mu are constants.

        The confusion is updated with the foreground rows' softmax over the categories, without margins, and
        used from the next step on.
        """
        z = logits.detach()
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        elements = sigmoid_loss(logits + self.margins(labels).to(logits.dtype), targets)
        loss = (self.weights(z, labels) * elements).sum() / max(len(labels), 1)
        foreground = labels < self.num_classes
        predictions = z[foreground, :-1].softmax(dim=1)
        zeros = z.new_zeros(self.num_classes, self.num_classes)
        self.predictions.add(zeros.index_add(0, labels[foreground], predictions))
        self.foreground.add(targets[:, :-1].sum(dim=0))
        return {"loss_cls": loss}

    def scores(self, logits: Tensor) -> Tensor:
        """p_nj (1 - p_nC) with p = sigmoid(z), and p_nC for background; rows do not sum to 1."""
        return scores_without_background(logits.sigmoid())
