"""Federated loss (Zhou et al., arXiv 2103.07461): a step trains the categories that occur and a few others.

``fed_loss.py`` and ``custom_fast_rcnn.py`` of CenterNet2, to which detectron2's and Detic's forms are equal.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from benchmark.classifiers import PerCategoryClassifier, one_hot, sigmoid_loss
from benchmark.statistics import ClassStatistics


class Federated(PerCategoryClassifier):
    """C independent sigmoids, of which a step trains about 50.

    LVIS verifies the absence of only few categories in an image; a category that is not trained in a step
    gets no negatives that may be wrong.

    Args:
        prior_probability: initial score.
        num_categories: K, number of categories in a step, including background.
        frequency_power: categories are drawn in proportion to their image count to this power.
        objectness: the score of a detection is sqrt(p o), o the proposal's own score; False: p.
    """

    draw_weights: Tensor  # (C + 1,) float32, 0 for background

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        prior_probability: float = 0.01,
        num_categories: int = 50,
        frequency_power: float = 0.5,
        objectness: bool = False,
    ) -> None:
        super().__init__(in_features, statistics, prior_probability)
        self.num_categories, self.objectness = num_categories, objectness
        counts = torch.tensor([*statistics.image_counts.tolist(), 0], dtype=torch.float32)
        weights = torch.where(counts > 0, counts**frequency_power, 0.0)
        self.register_buffer("draw_weights", weights, persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``federated_loss`` with newly drawn categories, without replacement."""
        probabilities, count = self.draw(labels)
        drawn = torch.multinomial(probabilities.cpu(), count) if count else labels.new_zeros(0)
        return {"loss_cls": self.federated_loss(logits, labels, drawn.to(labels.device))}

    def draw(self, labels: Tensor) -> tuple[Tensor, int]:
        """Unnormalised probabilities (C + 1,) from which further categories are drawn, and their number.

        The number is K minus the number of labels that occur, including background, or that of all categories
        that can be drawn if it is smaller.
        """
        occurring = labels.unique()
        probabilities = self.draw_weights.clone()
        probabilities[occurring] = 0
        possible = int((probabilities > 0).sum())
        return probabilities, min(max(self.num_categories - len(occurring), 0), possible)

    def federated_loss(self, logits: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        """L = (1/N) sum_n sum_{j in S} bce(z_nj, t_nj), background rows all negative.

        S are the categories among the labels and the drawn ones, the same for all rows of the call.
        """
        kept = self.kept(labels, drawn).to(logits.dtype)
        targets = one_hot(labels, self.num_classes, logits.dtype)
        return (kept * sigmoid_loss(logits, targets)).sum() / max(len(labels), 1)

    def kept(self, labels: Tensor, drawn: Tensor) -> Tensor:
        """Whether a category is in S, (C,) bool."""
        kept = torch.zeros_like(self.draw_weights, dtype=torch.bool)
        kept[labels] = kept[drawn] = True
        return kept[:-1]

    def detection_scores(
        self,
        logits: Sequence[Tensor],
        objectness: Tensor,
        average: Literal["logits", "scores"] = "logits",
    ) -> Tensor:
        """p, the mean of the heads' probabilities, not of their logits; or sqrt(p o)."""
        scores = super().detection_scores(logits, objectness, "scores")
        return (scores * objectness[:, None]).sqrt() if self.objectness else scores
