"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.interface import Classifier, LinearClassifier
from benchmark.classifiers.targets import one_hot

__all__ = ["Classifier", "LinearClassifier", "one_hot"]
