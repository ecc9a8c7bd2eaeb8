"""Cross entropy weighted by training counts (rows 6 and 7 of the BAGS table)."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics, class_weight_table


class Reweighted(CategoricalClassifier):
    """Softmax over C categories and background, each proposal weighted by its label.

    Args:
        weights: name of the table, ``inverse_count``, ``class_balanced`` or
            ``class_balanced_with_background`` (see ``benchmark.statistics.class_weights``).
        class_weights: the tables (C + 1,) by name, read from the intermediate files; None: made from the
            counts.
    """

    weights: Tensor  # (C + 1,) float32 as released, background last

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        weights: str = "inverse_count",
        class_weights: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__(in_features, statistics)
        known = class_weights or {}
        table = (
            known[weights] if weights in known else class_weight_table(weights, statistics.instance_counts)
        )
        self.register_buffer("weights", torch.as_tensor(table, dtype=torch.float32), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n W[y_n] CE(z_n, y_n); divided by the proposals, not by their weights."""
        weights = self.weights.to(logits.dtype)
        loss = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
        return {"loss_cls": loss / max(len(labels), 1)}
