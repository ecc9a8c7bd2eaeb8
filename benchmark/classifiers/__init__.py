"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.interface import CategoricalClassifier, Classifier, LinearClassifier
from benchmark.classifiers.targets import one_hot

__all__ = ["CategoricalClassifier", "Classifier", "LinearClassifier", "one_hot"]
