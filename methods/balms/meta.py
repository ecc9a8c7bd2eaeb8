"""The bilevel step of Balanced Meta-Softmax in closed form, without unrolling.

Only the last layer theta = (W, b) trains, so features X and labels y of both batches are constants and the
virtual step theta' depends on the re-weighter w through the weights omega alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import Average, Classifier, MetaStep, Rois, VirtualSgd, one_hot

from .classifier import BalancedMeta, sample_weights


@dataclass(frozen=True)
class MetaGradient:
    """Virtual weights W' (C, D) and b' (C,), the loss of the meta batch there, its gradient by w (C,)."""

    weight: Tensor
    bias: Tensor
    meta_loss: Tensor
    gradient: Tensor


@torch.no_grad()
def meta_gradient(classifier: BalancedMeta, train: Rois, meta: Rois, virtual: VirtualSgd) -> MetaGradient:
    """dL_meta(theta'(w)) / dw of a worker's batches; the README derives it.

    Categories without foreground proposal in the training batch get exactly 0.
    """
    weight, bias = classifier.linear.weight, classifier.linear.bias
    x, y = train.features.to(weight.dtype), train.labels
    n = max(len(y), 1)

    # R = sigmoid(z~) - t;  G_W = (1/N) sum_n omega_n R_n x_n^T,  G_b = (1/N) sum_n omega_n R_n
    targets = one_hot(y, classifier.num_classes, weight.dtype)
    residual = classifier.adjusted(F.linear(x, weight, bias), y).sigmoid() - targets
    weighted = sample_weights(classifier.reweighter, y)[:, None] * residual
    new_weight = virtual.step("linear.weight", weight, weighted.T @ x / n)
    new_bias = virtual.step("linear.bias", bias, weighted.sum(dim=0) / n)

    # at theta' on the meta batch: M = dL_meta/dW' = (1/N') R'^T X',  m = dL_meta/db' = (1/N') sum_n R'_n
    meta_x, meta_y = meta.features.to(weight.dtype), meta.labels
    meta_n = max(len(meta_y), 1)
    logits = F.linear(meta_x, new_weight, new_bias)
    if classifier.meta_loss == "as_released":
        logits = classifier.adjusted(logits, meta_y)
    meta_targets = one_hot(meta_y, classifier.num_classes, weight.dtype)
    meta_loss = F.binary_cross_entropy_with_logits(logits, meta_targets, reduction="sum") / meta_n
    meta_residual = logits.sigmoid() - meta_targets
    outer_weight, outer_bias = meta_residual.T @ meta_x / meta_n, meta_residual.sum(dim=0) / meta_n

    # q_n = dL_meta/d omega_n = -(eta/N) R_n . (M x_n + m) for foreground n
    foreground = y < classifier.num_classes
    x, y, residual, targets = x[foreground], y[foreground], residual[foreground], targets[foreground]
    q = -(virtual.learning_rate / n) * (residual * F.linear(x, outer_weight, outer_bias)).sum(dim=1)

    # dL_meta/dw_c = s_c (1 - s_c) (F/S) sum_{n: y_n = c} (q_n - (1/S) sum_m s_{y_m} q_m)
    s = classifier.reweighter.sigmoid()
    normaliser = s[y].sum().clamp(min=torch.finfo(s.dtype).tiny)
    deviation = q - (s[y] * q).sum() / normaliser
    gradient = s * (1 - s) * (len(y) / normaliser) * (targets.T @ deviation)
    return MetaGradient(new_weight, new_bias, meta_loss, gradient)


class Reweighting(MetaStep):
    """Updates the re-weighter by the meta gradient with Adam, at a constant rate and without weight decay."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = cast(BalancedMeta, classifier)
        self.adam = torch.optim.Adam([self.classifier.reweighter], lr=self.classifier.learner_rate)

    def step(
        self, train: Sequence[Rois], meta: Sequence[Rois], virtual: VirtualSgd, average: Average
    ) -> dict[str, Tensor]:
        """One Adam step on w with the mean gradient of the workers, each with its own virtual step."""
        workers = [
            meta_gradient(self.classifier, own, other, virtual)
            for own, other in zip(train, meta, strict=True)
        ]
        gradient = torch.stack([worker.gradient for worker in workers]).mean(dim=0)
        self.classifier.reweighter.grad = average(gradient)
        self.adam.step()
        return {"meta_loss": torch.stack([worker.meta_loss for worker in workers]).mean()}

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments; the re-weighter itself is saved with the classifier."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore Adam's moments."""
        self.adam.load_state_dict(state)
