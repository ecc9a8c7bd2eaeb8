"""SimCal (ECCV 2020): the trained classifier and a calibrated head; each scores the classes for which it is
better.

``rois.py`` balances the proposals that the calibrated head is trained on.
"""

from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.classifiers import CategoricalClassifier
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics, warn_unless_divided


class CalibrationHead(nn.Sequential):
    """Pooled features (N, P) to logits (N, C + 1), background last: fc, ReLU, [fc, ReLU,] classifier.

    Starts from PyTorch's default initialisation of linear layers.
    """

    def __init__(self, in_features: int, width: int, outputs: int, layers: int) -> None:
        widths = [in_features, *[width] * (layers - 1)]
        hidden: list[nn.Module] = []
        for ins, outs in pairwise(widths):
            hidden += [nn.Linear(ins, outs), nn.ReLU()]
        super().__init__(*hidden, nn.Linear(widths[-1], outputs))

    @property
    def linears(self) -> list[nn.Linear]:
        """Its linear layers in order, the classifier last."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]


class DualHead(CategoricalClassifier):
    """Logits (N, 2 (C + 1)): those of the original classifier, which stays frozen, then the calibrated ones.

    Args:
        layers: 2 (2fc) or 3 (3fc) layers of the calibrated head.
        instance_threshold: T; the calibrated head scores classes with fewer training instances. None: it
            scores all columns, including background ("calibrated only").
    """

    takes_pooled = True

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        pooled_features: int,
        layers: int = 3,
        instance_threshold: int | None = 300,
    ) -> None:
        super().__init__(in_features, statistics, pooled_features)
        if layers not in (2, 3):
            raise BenchmarkError("no such calibration head", found=f"{layers} layers", expected="2 or 3")
        self.linear.requires_grad_(False)
        self.calibrated = CalibrationHead(pooled_features, in_features, self.num_classes + 1, layers)
        if instance_threshold is None:
            replaced = torch.ones(self.num_classes + 1, dtype=torch.bool)
        else:
            counts = statistics.instance_counts
            few = counts < instance_threshold
            setting, group = f"instance_threshold {instance_threshold}", "scored by the calibrated head"
            warn_unless_divided(few, setting, group, "training instances", counts)
            replaced = torch.from_numpy(np.append(few, False))
        self.register_buffer("replaced", replaced, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """z and z' of box-head and pooled features (N, D + P), side by side."""
        box, pooled = features.split([self.in_features, self.pooled_features], dim=1)
        return torch.cat([self.linear(box), self.calibrated(pooled)], dim=1)

    def category_weights(self) -> Tensor:
        """Rows of the head that scores the category; the two heads have features of one width."""
        original, calibrated = self.linear.weight[:-1], self.calibrated.linears[-1].weight[:-1]
        return torch.where(cast(Tensor, self.replaced)[:-1, None], calibrated, original)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean cross entropy of the calibrated head over the chosen proposals, with equal weights."""
        _, calibrated = logits.chunk(2, dim=1)
        return super().loss(calibrated, labels)

    def scores(self, logits: Tensor) -> Tensor:
        """s_nj = p'_nj for c_j < T, else p_nj, background p; rows are not renormalised."""
        original, calibrated = (z.softmax(dim=1) for z in logits.chunk(2, dim=1))
        return torch.where(cast(Tensor, self.replaced), calibrated, original)
