"""Sigmoid focal loss on the softmax baseline (rows 8 and 9 of the BAGS table)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, one_hot
from benchmark.statistics import ClassStatistics, class_weight_table


def sigmoid_focal_losses(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """a (1 - p)^gamma (-log p) of every element, with p the probability of the correct answer.

    Written with softplus: finite values and gradients for any logit and any gamma from 0.

    Args:
        logits: (N, L).
        targets: (N, L), 1 for positives, else 0.
        gamma: focus on wrong answers.
        alpha: weight a of positives; negatives get 1 - alpha.
    """
    right = torch.where(targets > 0, logits, -logits)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * torch.exp(-gamma * F.softplus(right)) * F.softplus(-right)


def targets_of_released_kernel(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Targets (N, C + 1), background last, as the released CUDA kernel reads them: a defect.

    The kernel takes one class number per proposal but gets the one-hot matrix (background first), so proposal
    n gets the n-th entry of the flattened matrix: 0 means no category, 1 means the first channel, which is
    background. If N <= C + 1, only the label of proposal 0 has an effect.
    """
    released = torch.where(labels == num_classes, 0, labels + 1)
    number = torch.arange(len(labels), device=labels.device)
    row = number.div(num_classes + 1, rounding_mode="floor")
    targets = torch.zeros(len(labels), num_classes + 1, dtype=dtype, device=labels.device)
    targets[:, num_classes] = (released[row] == number % (num_classes + 1)).to(dtype)
    return targets


class Focal(CategoricalClassifier):
    """C + 1 sigmoids in training, including background; softmax scores in testing, as released.

    Args:
        gamma: focus on wrong answers.
        alpha: weight of positives; negatives get 1 - alpha.
        weights: name of a table of class weights that multiply a proposal's loss; None for none.
        targets: ``one_hot``, the intended reading, or ``released_kernel``.
    """

    weights: Tensor  # (C + 1,) float32, background last

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        gamma: float = 2.0,
        alpha: float = 0.25,
        weights: str | None = None,
        targets: str = "one_hot",
    ) -> None:
        super().__init__(in_features, statistics)
        if targets not in ("one_hot", "released_kernel"):
            raise TypeError(f"targets is one_hot or released_kernel, not {targets!r}")
        self.gamma, self.alpha, self.released_kernel = gamma, alpha, targets == "released_kernel"
        table = torch.ones(self.num_classes + 1)
        if weights is not None:
            table = torch.as_tensor(
                class_weight_table(weights, statistics.instance_counts), dtype=torch.float32
            )
        self.register_buffer("weights", table, persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = 1/(N (C + 1)) sum_n W[y_n] sum_j focal(z_nj, t_nj)."""
        if self.released_kernel:
            targets = targets_of_released_kernel(labels, self.num_classes, logits.dtype)
        else:
            targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        losses = sigmoid_focal_losses(logits, targets, self.gamma, self.alpha)
        weighted = self.weights.to(logits.dtype)[labels, None] * losses
        return {"loss_cls": weighted.sum() / max(weighted.numel(), 1)}
