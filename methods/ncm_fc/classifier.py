"""Nearest class mean (rows 10 and 11 of the BAGS table): no category weights, only mean features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics


def cosines_to_means(features: Tensor, means: Tensor) -> Tensor:
    """Cosine of features (N, D) and class means (C, D): (N, C); -1 for a category whose mean is zero.

    Such a category has no training box, and gets the smallest similarity there is.
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(means, dim=1).T
    return torch.where(means.any(dim=1), cosines, -1.0)


def ncm_scores(logits: Tensor, cosines: Tensor) -> Tensor:
    """(1 - p_bg) softmax(cosines) for categories, then p_bg, from the softmax of ``logits`` (N, C + 1)."""
    background = logits.softmax(dim=1)[:, -1:]
    return torch.cat([(1 - background) * cosines.softmax(dim=1), background], dim=1)


class NearestClassMean(CategoricalClassifier):
    """Background from the trained softmax classifier, categories from the similarity to their mean embedding.

    Box-head features are those before the last ReLU, where they have both signs. Logits (N, (C + 1) + C):
    those of the softmax classifier, background last, then the cosines.
    """

    before_activation = True
    means: Tensor  # (C, embedding); zero until the fit stage has filled them

    def embedding(self, features: Tensor) -> Tensor:
        """What means are taken of: a part of the features (N, D + P)."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """The softmax classifier was trained behind the ReLU, which comes here."""
        logits = self.linear(features[:, : self.in_features].relu())
        cosines = cosines_to_means(self.embedding(features), self.means)
        return torch.cat([logits, cosines.to(logits.dtype)], dim=1)

    def category_weights(self) -> Tensor:
        """The means."""
        return self.means

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the softmax classifier; the means are not trained."""
        return super().loss(logits[:, : self.num_classes + 1], labels)

    def scores(self, logits: Tensor) -> Tensor:
        """p(j) = (1 - p_bg) softmax(cos)_j over the categories, without a temperature; rows sum to one."""
        return ncm_scores(logits[:, : self.num_classes + 1], logits[:, self.num_classes + 1 :])


class BoxHeadMeans(NearestClassMean):
    """NCM-fc: the output of the last fully connected layer."""

    def __init__(self, in_features: int, statistics: ClassStatistics) -> None:
        super().__init__(in_features, statistics)
        self.register_buffer("means", torch.zeros(self.num_classes, in_features))

    def embedding(self, features: Tensor) -> Tensor:
        """The box-head features (N, D)."""
        return features


class PooledMeans(NearestClassMean):
    """NCM-conv: the flattened RoIAlign output."""

    takes_pooled = True

    def __init__(self, in_features: int, statistics: ClassStatistics, pooled_features: int) -> None:
        super().__init__(in_features, statistics, pooled_features)
        self.register_buffer("means", torch.zeros(self.num_classes, pooled_features))

    def embedding(self, features: Tensor) -> Tensor:
        """The pooled features (N, P)."""
        return features[:, self.in_features :]
