"""Cross entropy weighted by training counts (rows 6 and 7 of the BAGS table)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics, class_weights


class Reweighted(CategoricalClassifier):
    """Softmax over C categories and background, each proposal weighted by its label.

    Args:
        weights: name of the table, ``inverse_count``, ``class_balanced`` or
            ``class_balanced_with_background`` (see ``benchmark.statistics.class_weights``).
    """

    weights: Tensor  # (C + 1,) float32 as released, background last

    def __init__(self, in_features: int, statistics: ClassStatistics, weights: str = "inverse_count") -> None:
        super().__init__(in_features, statistics)
        table = torch.as_tensor(class_weights(weights, statistics.instance_counts), dtype=torch.float32)
        self.register_buffer("weights", table, persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n W[y_n] CE(z_n, y_n); divided by the proposals, not by their weights."""
        weights = self.weights.to(logits.dtype)
        loss = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}
