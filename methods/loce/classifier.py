"""LOCE's equilibrium loss (ICCV 2021): categories that score low on their own RoIs get more room.

``equilibrium_loss.py`` of the release, and the mean scores of ``loce_roi_head.py``. No counts are used: how
well a category is learnt is measured while training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, RunningSum, Total, one_hot
from benchmark.statistics import ClassStatistics

START = 0.01  # every mean score at the start, with which the loss is plain cross entropy


class Equilibrium(CategoricalClassifier):
    """Logits (N, C + 1), background last; the mean score of every category is a prior of the loss.

    Args:
        alpha: share of a mean score that remains after one more entry.
        background_score: that of background, which never changes.
    """

    mean_score: Tensor  # m (C + 1,) in (0, 1]

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        alpha: float = 0.9,
        background_score: float = 0.01,
    ) -> None:
        super().__init__(in_features, statistics)
        self.alpha, self.background_score = alpha, background_score
        self.register_buffer("mean_score", torch.full((self.num_classes + 1,), START))
        self.entries_of_step = RunningSum(2, self.num_classes + 1)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n ebl_n. A worker's own entries are in the mean scores that it uses."""
        own = self.entries(logits.detach(), labels)
        self.entries_of_step.add(own)
        losses = self.row_losses(logits, labels, self.updated(own))
        return {"loss_cls": losses.sum() / max(len(labels), 1)}

    def row_losses(self, logits: Tensor, labels: Tensor, mean_score: Tensor) -> Tensor:
        """ebl_n = -log(m_y exp(z_ny) / sum_k m_k exp(z_nk)) = CE(z_n + log m, y_n), (N,); m is a constant."""
        return F.cross_entropy(logits + mean_score.log().to(logits.dtype), labels, reduction="none")

    def entries(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum and number (2, C + 1) of the entries of a call: one for each category among its labels.

        The entry is the mean of softmax(z_n), without m, at category k over the rows with label k.
        """
        own = one_hot(labels, self.num_classes + 1, logits.dtype)
        rows = own.sum(dim=0)
        means = (own * logits.softmax(dim=1)).sum(dim=0) / rows.clamp(min=1)
        return torch.stack([means, (rows > 0).to(means.dtype)])

    def updated(self, entries: Tensor) -> Tensor:
        """m_k <- alpha^e m_k + (1 - alpha^e) (mean of the e entries of k), (C + 1,); m_C stays.

        Args:
            entries: sum and number e of the entries of each category (2, C + 1).
        """
        total, number = entries.to(self.mean_score)
        remaining = self.alpha**number
        updated = remaining * self.mean_score + (1 - remaining) * total / number.clamp(min=1)
        updated[-1] = self.background_score
        return updated

    def finish_step(self, total: Total) -> None:
        """Mean scores after the entries of all workers of the step, taken together."""
        self.entries_of_step.value.zero_()
        super().finish_step(total)
        self.mean_score.copy_(self.updated(self.entries_of_step.value))
