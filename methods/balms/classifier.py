"""Balanced Meta-Softmax (NeurIPS 2020): balanced sigmoids and a learned weight for every category.

``meta.py`` learns the weights.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import BalancedPerCategoryClassifier, one_hot
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics

MetaLoss = Literal["as_released", "unadjusted"]


def sample_weights(reweighter: Tensor, labels: Tensor) -> Tensor:
    """omega_n = F s_{y_n} / S with s = sigmoid(w), S = sum of s_{y_m} over the foreground; 1 for background.

    Their mean over the F foreground proposals is 1; scaling all s by a constant changes nothing.

    Args:
        reweighter: w (C,).
        labels: (N,) in ``0..C``.
    """
    foreground = labels < len(reweighter)
    s = reweighter.sigmoid()[labels.clamp(max=len(reweighter) - 1)] * foreground
    normaliser = s.sum().clamp(min=torch.finfo(s.dtype).tiny)
    return torch.where(foreground, foreground.sum() * s / normaliser, 1.0)


class BalancedMeta(BalancedPerCategoryClassifier):
    """C balanced sigmoids whose foreground proposals are weighted by the category.

    Args:
        prior_probability: initial score, if the weights are not those of the base model.
        meta_loss: logits of the loss on the meta batch. ``as_released``: lowered like those of the training
            batch; ``unadjusted``: raw, as in the paper's classification code.
        learner_rate: Adam's constant learning rate of the re-weighter.
    """

    reweighter: Tensor  # w (C,); a buffer, because the classifier's optimiser must not change it

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        prior_probability: float = 0.001,
        meta_loss: MetaLoss = "as_released",
        learner_rate: float = 0.01,
    ) -> None:
        super().__init__(in_features, statistics, prior_probability)
        if meta_loss not in get_args(MetaLoss):
            raise BenchmarkError(
                "unknown meta_loss", found=meta_loss, expected=" or ".join(get_args(MetaLoss))
            )
        self.meta_loss, self.learner_rate = meta_loss, learner_rate
        self.register_buffer("reweighter", torch.zeros(self.num_classes))

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n omega_n l_n with l_n = sum_j bce(z~_nj, t_nj), z~ the adjusted logits."""
        targets = one_hot(labels, self.num_classes, logits.dtype)
        adjusted = self.adjusted(logits, labels)
        losses = F.binary_cross_entropy_with_logits(adjusted, targets, reduction="none").sum(dim=1)
        weights = sample_weights(self.reweighter, labels)
        return {"loss_cls": (weights * losses).sum() / max(len(labels), 1)}
