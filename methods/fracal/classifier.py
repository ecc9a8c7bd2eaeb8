"""FRACAL (CVPR 2025): a finished softmax model, calibrated by how rare and how evenly spread categories are.

``fracal_bbox_head.py`` of the release; the dimension is measured in ``stages.py``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics, counts_and_total, rarity

UNIFORM_COUNT = {"images": 300, "instances": 1000}  # of every category, in the release's uniform prior


def offsets(statistics: ClassStatistics, link: str | None, counts: str) -> NDArray[np.float64]:
    """What is added to the logits, (C,): g(f_j) - g(1/C) with the link g of ``rarity``; none for None.

    Of ``smooth`` the release adds the 1 in the uniform prior instead of taking it away, so that all offsets
    are 2 too large.
    """
    if link is None:
        return np.zeros(statistics.num_classes)
    count, categories = np.array([float(UNIFORM_COUNT[counts])]), statistics.num_classes
    uniform = rarity(link, count, categories * float(count[0]))
    found = rarity(link, *counts_and_total(statistics, counts)) - uniform
    return found + 2 if link == "smooth" else found


class Fractal(CategoricalClassifier):
    """Logits (N, C + 1) of the finished model; only the scores differ.

    Args:
        link: scale of the rarity; None for no offsets.
        counts: ``images``: a category's share of all training images; ``instances``: of all instances.
        strength: lambda, power of the dimension.
        cosine: of the finished model, as in ``LinearClassifier``.
    """

    offsets: Tensor  # w (C + 1,) float64, 0 for background
    dimension: Tensor  # D (C,) float64, at least 1; 1 before it is measured

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        link: str | None = "base10",
        counts: str = "images",
        strength: float = 2.0,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        self.strength = strength
        of_categories = torch.as_tensor(offsets(statistics, link, counts))
        self.register_buffer("offsets", F.pad(of_categories, (0, 1)), persistent=False)
        self.register_buffer("dimension", torch.ones(self.num_classes, dtype=torch.float64))

    def scores(self, logits: Tensor) -> Tensor:
        """q / sum q with q_j = p_j / D_j^lambda, q_bg = p_bg and p = softmax(z + [w, 0])."""
        spread = F.pad(self.strength * self.dimension.log(), (0, 1))
        return (logits + (self.offsets - spread).to(logits.dtype)).softmax(dim=1)
