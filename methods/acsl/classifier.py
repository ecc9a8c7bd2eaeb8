"""Adaptive class suppression (CVPR 2021): a row suppresses only the categories with which it is confused.

``acsl.py`` of the release. The classifier starts from that of the softmax baseline, used as C + 1 sigmoids.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, one_hot, sigmoid_loss
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics

RARE_SHARE, COMMON_SHARE = (
    0.01,
    0.1,
)  # of the background rows; the comments of the release say 1/3 and 2/3
Link = Literal["sigmoid", "softmax"]


def draw_counts(background_rows: int) -> tuple[int, int]:
    """Numbers of background rows that suppress rare and common categories, rounded down."""
    return int(RARE_SHARE * background_rows), int(COMMON_SHARE * background_rows)


class AdaptiveSuppression(CategoricalClassifier):
    """Logits (N, C + 1) of independent sigmoids, background last.

    Args:
        score_threshold: tau; a foreground row suppresses categories with at least this score.
        cascade_link: link from a cascade's averaged logits to scores. The release uses a softmax, because it
            reads its switch from the wrong place of the configuration.
    """

    letters: Tensor  # (3, C + 1) bool: whether a column is a rare, common or frequent category

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        score_threshold: float = 0.7,
        cascade_link: Link = "sigmoid",
    ) -> None:
        super().__init__(in_features, statistics)
        if cascade_link not in get_args(Link):
            raise BenchmarkError(
                "unknown cascade_link", found=cascade_link, expected=" or ".join(get_args(Link))
            )
        self.score_threshold, self.cascade_link = score_threshold, cascade_link
        of = [[letter == own for own in (*statistics.frequencies, "background")] for letter in "rcf"]
        self.register_buffer("letters", torch.tensor(of), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``suppression_loss`` with newly drawn background rows, separately for rare and common
        categories."""
        background = (labels == self.num_classes).nonzero().squeeze(1)
        drawn = [
            background[torch.randperm(len(background))[:count].to(labels.device)]
            for count in draw_counts(len(background))
        ]
        return {"loss_cls": self.suppression_loss(logits, labels, *drawn)}

    def suppression_loss(
        self, logits: Tensor, labels: Tensor, rare_rows: Tensor, common_rows: Tensor
    ) -> Tensor:
        """L = (1/N) sum_nj v_nj bce(z_nj, t_nj), t one-hot over categories and background."""
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        weights = self.weights(logits.detach(), labels, rare_rows, common_rows)
        return (weights * sigmoid_loss(logits, targets)).sum() / max(len(labels), 1)

    def weights(self, logits: Tensor, labels: Tensor, rare_rows: Tensor, common_rows: Tensor) -> Tensor:
        """v (N, C + 1), 0 or 1.

            foreground row:  v_nj = 1 for its own column and where sigmoid(z_nj) >= tau
            background row:  v_nj = 1 for background and frequent categories; for rare and common ones in the
                             rows that were drawn for them. Its scores have no effect.

        Args:
            logits: z (N, C + 1).
            labels: (N,).
            rare_rows: positions of the background rows drawn for rare categories.
            common_rows: positions of those drawn for common categories.
        """
        own = one_hot(labels, self.num_classes + 1, torch.bool)
        rare, common, frequent = self.letters
        weights = own | (logits.sigmoid() >= self.score_threshold)
        background = labels == self.num_classes
        weights[background] = (own | frequent)[background]
        for rows, columns in ((rare_rows, rare), (common_rows, common)):
            weights[rows] |= columns
        return weights.to(logits.dtype)

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z); rows do not sum to 1."""
        return logits.sigmoid()

    def detection_scores(
        self,
        logits: Sequence[Tensor],
        objectness: Tensor,
        average: Literal["logits", "scores"] = "logits",
    ) -> Tensor:
        """Scores of the averaged logits; a cascade uses the link of the option ``cascade_link``."""
        if len(logits) > 1 and self.cascade_link == "softmax":
            return torch.stack(list(logits)).mean(dim=0).softmax(dim=1)
        return super().detection_scores(logits, objectness, average)
