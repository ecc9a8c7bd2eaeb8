"""ROG (ICCV 2023): beside the classification loss, one that ranks the proposals of a category above all else.

``gap_loss.py`` and ``rog_convfc_bbox_head.py`` of the release.
"""

from typing import Any, cast

import torch
from torch import Tensor

from benchmark.classifiers import (
    LinearClassifier,
    RunningSum,
    one_hot,
    scores_without_background,
    sigmoid_loss,
)
from benchmark.statistics import ClassStatistics


def above(difference: Tensor, delta: float) -> Tensor:
    """H: whether a logit is above another, clamp(d / (2 delta) + 1/2, 0, 1), or a step that is 1 at 0."""
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    return (difference / (2 * delta) + 0.5).clamp(0, 1)


class GapLoss(torch.autograd.Function):
    """The ranking error of all positives, with a prescribed gradient: it is not that of the error.

    For a positive p of category m among the rows P_m with that label:

        R+   = sum over q in P_m of H(z_qm - z_pm)                 rank = R+ + F
        F    = sum over relevant negatives of H(z_nj - z_pm)       error = F / rank

    Relevant negatives are all entries (n, j) of the matrix, whatever their column, that are no positive of
    their own row and reach the lowest positive of m but for delta.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, delta: float) -> Tensor:
        """Mean over the categories present of the mean error of their positives, in [0, 1].

        Args:
            ctx: PyTorch's.
            logits: z (N, C).
            labels: (N,), C meaning background.
            weights: lambda w (C,), of the categories' gradients.
            delta: half the width over which H rises.
        """
        present = labels[labels < logits.shape[1]].unique()
        gradient, error = torch.zeros_like(logits), logits.new_zeros(())
        own = one_hot(labels, logits.shape[1], torch.bool)
        for category in present.tolist():
            rows = (labels == category).nonzero().squeeze(1)
            positives = logits[rows, category]
            relevant = ~own & (logits >= positives.min() - delta)
            negatives, of_negatives = logits[relevant], logits.new_zeros(int(relevant.sum()))
            share = 1 / (len(rows) * len(present))
            for row, positive in zip(rows.tolist(), positives, strict=True):
                ahead = above(negatives - positive, delta)
                false = ahead.sum()
                rank = above(positives - positive, delta).sum() + false
                error += share * false / rank
                if false > 1e-10:
                    pull = share * weights[category] / rank
                    gradient[row, category] -= pull * false
                    of_negatives += pull * ahead
            gradient[relevant] += of_negatives
        ctx.save_for_backward(gradient)
        return error

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """-lambda w_m F / (rank |P_m| |M|) for a positive, as much in all for the negatives ahead of it."""
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None


class Ranked(LinearClassifier):
    """C + 1 sigmoids, background last, whose cross entropy is joined by the ranking loss.

    Args:
        gamma: power by which categories seen less often weigh more.
        rank_weight: lambda, factor of the ranking loss's gradient.
        delta: half the width over which one logit comes to lie above another.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        gamma: float = 1.0,
        rank_weight: float = 0.1,
        delta: float = 0.5,
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        self.gamma, self.rank_weight, self.delta = gamma, rank_weight, delta
        self.seen = RunningSum(self.num_classes + 1)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj bce(z_nj, t_nj), t one-hot with background, and with foreground ``loss_cls_rank``.

        A worker counts its own RoIs of the step before it uses the counts.
        """
        own = labels.bincount(minlength=self.num_classes + 1)
        self.seen.add(own)
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        losses = {"loss_cls": sigmoid_loss(logits, targets).sum() / max(len(labels), 1)}
        if (labels < self.num_classes).any():
            losses["loss_cls_rank"] = self.gap(logits[:, :-1], labels, self.seen.value + own)
        return losses

    def gap(self, logits: Tensor, labels: Tensor, seen: Tensor) -> Tensor:
        """``GapLoss`` with weights w_j ~ seen_j^-gamma whose mean over the categories is 1.

        Args:
            logits: z (N, C).
            labels: (N,).
            seen: RoIs of each label so far, (C + 1,).
        """
        rarity = seen[: self.num_classes].to(logits.dtype).clamp(min=1) ** -self.gamma
        weights = self.rank_weight * rarity / (rarity.sum() + 1e-9) * self.num_classes
        return cast(Tensor, GapLoss.apply(logits, labels, weights, self.delta))  # type: ignore[no-untyped-call]

    def scores(self, logits: Tensor) -> Tensor:
        """p_nj (1 - p_nC) with p = sigmoid(z)."""
        return scores_without_background(logits.sigmoid())
