"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.interface import CategoricalClassifier, Classifier, LinearClassifier
from benchmark.classifiers.meta import Average, MetaStep, Rois, VirtualSgd
from benchmark.classifiers.per_category import BalancedPerCategoryClassifier, PerCategoryClassifier
from benchmark.classifiers.targets import one_hot

__all__ = [
    "Average",
    "BalancedPerCategoryClassifier",
    "CategoricalClassifier",
    "Classifier",
    "LinearClassifier",
    "MetaStep",
    "PerCategoryClassifier",
    "Rois",
    "VirtualSgd",
    "one_hot",
]
