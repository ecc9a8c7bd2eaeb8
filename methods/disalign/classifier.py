"""DisAlign (CVPR 2021): magnitudes and margins per category align the logits of a finished classifier.

``disalign_fast_rcnn.py`` of the release.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import CategoricalClassifier
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics

Counts = Literal["instances", "images"]


def reweighting(counts: Tensor, rho: float) -> Tensor:
    """w (C + 1,): w_j ~ (n_j / sum n)^-rho with mean 1 over the categories, and 1 for background.

    Args:
        counts: n (C,), at least 1 each.
        rho: 0 for equal weights.
    """
    weights = (counts / counts.sum()) ** -rho
    return F.pad(weights / weights.mean(), (0, 1), value=1.0)


class DisAlign(CategoricalClassifier):
    """Logits (N, C + 1), background last; the trained linear map is frozen.

    Args:
        rho: exponent of the weights of rare categories in the loss.
        counts: ``images`` or ``instances`` of the training split, for the weights.
        cosine: that of the base classifier, as in ``LinearClassifier``.
    """

    weights: Tensor  # w (C + 1,) float64

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        rho: float = 0.8,
        counts: Counts = "instances",
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        if counts not in get_args(Counts):
            raise BenchmarkError("unknown counts", found=counts, expected=" or ".join(get_args(Counts)))
        self.linear.requires_grad_(False)
        self.magnitude = nn.Parameter(torch.ones(self.num_classes))
        self.margin = nn.Parameter(torch.zeros(self.num_classes))
        self.confidence = nn.Linear(in_features, 1)
        nn.init.normal_(self.confidence.weight, std=0.01)
        nn.init.zeros_(self.confidence.bias)
        of = statistics.instance_counts if counts == "instances" else statistics.image_counts
        weights = reweighting(torch.as_tensor(of).double().clamp(min=1), rho)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """z'_nj = c_n (s_j z_nj + m_j) + (1 - c_n) z_nj, c_n = sigmoid(a . x_n + b); background as it was.

        Args:
            features: x (N, D), not normalised for the confidence, even if the base classifier normalises
                them.
        """
        logits = self.linear(features)
        z = logits[:, :-1]
        confidence = self.confidence(features).sigmoid()
        aligned = confidence * (self.magnitude * z + self.margin) + (1 - confidence) * z
        return torch.cat([aligned, logits[:, -1:]], dim=1)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = sum_n w_{y_n} CE(z'_n, y_n) / sum_n w_{y_n}, over the RoIs of a worker."""
        weights = self.weights.to(logits.dtype)[labels]
        losses = weights * F.cross_entropy(logits, labels, reduction="none")
        return {"loss_cls": losses.sum() / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)}

    def category_weights(self) -> None:
        """None: a category's direction depends on the confidence in the proposal."""
        return None
