"""Softmax cross entropy, the baseline of the BAGS and GOL papers (``BBoxHead`` of mmdetection)."""

from collections.abc import Mapping
from typing import Any

from benchmark.classifiers import CategoricalClassifier, constant_
from benchmark.statistics import ClassStatistics


class Softmax(CategoricalClassifier):
    """One softmax over C categories and background: logits (N, C + 1), background last.

    Loss (1/N) sum_n CE(z_n, y_n), scores softmax(z_n); both are in ``CategoricalClassifier``, because other
    methods reuse them.

    Args:
        initial_weight: initial value of all weights of the classifier; None for N(0, 0.01) and bias 0.
        initial_bias: initial value of all biases, with ``initial_weight``.
        cosine: for logits that are scaled cosines, as in ``LinearClassifier``.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        initial_weight: float | None = None,
        initial_bias: float = 0.0,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, cosine=cosine)
        if initial_weight is not None:
            constant_(self.linear, initial_weight, initial_bias)
