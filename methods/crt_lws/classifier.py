"""Learnable weight scaling (Kang et al., ICLR 2020): the trained weight vectors get new lengths.

``lws_layer.py`` of EQL v2's release. Classifier re-training (cRT) needs no class of its own: it is a softmax
classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics


class LearnableWeightScaling(CategoricalClassifier):
    """z_j = f_j (w_j . x) + b_j: one factor for every output, background's too; w and b are frozen.

    The bias is not scaled, and weight decay pulls factors towards 0, not 1, both as released.
    """

    def __init__(self, in_features: int, statistics: ClassStatistics) -> None:
        super().__init__(in_features, statistics)
        self.linear.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(self.num_classes + 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C + 1) of features (N, D)."""
        return F.linear(features, self.scale[:, None] * self.linear.weight, self.linear.bias)

    def category_weights(self) -> Tensor:
        """The scaled rows of the categories."""
        return self.scale[:-1, None] * self.linear.weight[:-1]
