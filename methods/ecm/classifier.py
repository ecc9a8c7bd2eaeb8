"""Effective class-margin loss (ECCV 2022, arXiv 2301.09724): margins that depend only on the counts.

``effective_class_margin_loss.py`` and ``ecm_utils.py`` of the release. Background is one more category.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier, one_hot, scores_without_background
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics

Counts = Literal["instances", "images"]


def counts_with_background(counts: Tensor, background_ratio: float) -> Tensor:
    """n (C + 1,): at least 1 for a category, and beta times their sum for background, which is last."""
    n = counts.clamp(min=1)
    return F.pad(n, (0, 1), value=float(background_ratio * n.sum()))


def margins(n: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets of the positive and of the negative logit; the rarer, the smaller the first.

    g+_j = log((n_j^1/4 + (T - n_j)^1/4) / (T - n_j)^1/4)
    g-_j = log((n_j^1/4 + (T - n_j)^1/4) / n_j^1/4)               T = sum of all n
    """
    own, rest = n**0.25, (n.sum() - n) ** 0.25
    return torch.log((own + rest) / rest), torch.log((own + rest) / own)


def class_weights(n: Tensor) -> Tensor:
    """w_j = a_j log(1 + 1 / a_j) with a_j = (T - n_j) / n_j: in (0, 1), close to 1 for rare categories."""
    a = (n.sum() - n) / n
    return a * torch.log((1 + a) / a) if n.dtype == torch.float32 else a * torch.log1p(1 / a)


class EffectiveClassMargin(LinearClassifier):
    """C + 1 sigmoids on cosines, background last; positives and negatives are shifted by fixed margins.

    Args:
        temperature: temperature of the cosines.
        counts: ``images`` or ``instances`` of the training split, for n_j.
        background_ratio: beta, background RoIs per foreground RoI.
        float32_weights: class weights as released, where float32 leaves those of the rarest categories
            between 0.93 and 1.11 instead of at 1.
    """

    margin: Tensor  # g+ - g- (C + 1,) float64
    weights: Tensor  # w (C + 1,) float64

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        temperature: float = 20.0,
        counts: Counts = "instances",
        background_ratio: float = 6.3313,
        float32_weights: bool = False,
    ) -> None:
        width = statistics.num_classes + 1
        super().__init__(in_features, statistics, width, cosine={"temperature": temperature})
        if counts not in get_args(Counts):
            raise BenchmarkError("unknown counts", found=counts, expected=" or ".join(get_args(Counts)))
        of = statistics.instance_counts if counts == "instances" else statistics.image_counts
        n = counts_with_background(torch.as_tensor(of).double(), background_ratio)
        positive, negative = margins(n)
        self.register_buffer("margin", positive - negative, persistent=False)
        weights = class_weights(n.float()).double() if float32_weights else class_weights(n)
        self.register_buffer("weights", weights, persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj w_j bce(u_nj, t_nj) with u = 2 z + g+ - g-, t one-hot over all C + 1.

        The release has exp(z + g+) / (exp(z + g+) + exp(-z + g-)), which is sigmoid(u) and overflows.
        """
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        margin, weights = self.margin.to(logits.dtype), self.weights.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(2 * logits + margin, targets, weights, reduction="sum")
        return {"loss_cls": losses / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """p_nj (1 - p_nC) with p = sigmoid(z): without factor 2 and margins, as released."""
        return scores_without_background(logits.sigmoid())
