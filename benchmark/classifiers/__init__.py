"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.interface import Classifier, LinearClassifier
from benchmark.classifiers.per_category import BalancedPerCategoryClassifier, PerCategoryClassifier
from benchmark.classifiers.targets import one_hot

__all__ = [
    "BalancedPerCategoryClassifier",
    "Classifier",
    "LinearClassifier",
    "PerCategoryClassifier",
    "one_hot",
]
