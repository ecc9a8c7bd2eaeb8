"""Softmax cross entropy, the baseline of the BAGS paper (``BBoxHead`` of mmdetection v1)."""

from benchmark.classifiers import CategoricalClassifier


class Softmax(CategoricalClassifier):
    """One softmax over C categories and background: logits (N, C + 1), background last.

    Loss (1/N) sum_n CE(z_n, y_n), scores softmax(z_n); both stand in ``CategoricalClassifier``, because other
    methods reuse them.
    """
