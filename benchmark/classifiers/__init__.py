"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.background import scores_without_background
from benchmark.classifiers.cosine import NormedConv2d, NormedLinear
from benchmark.classifiers.initialisation import constant_
from benchmark.classifiers.interface import CategoricalClassifier, Classifier, LinearClassifier
from benchmark.classifiers.links import (
    LEAST_GUMBEL_LOGIT,
    RELEASED_FLOOR,
    gumbel,
    gumbel_loss,
    mean_up_to,
    normal,
    normal_loss,
    sigmoid_loss,
)
from benchmark.classifiers.meta import Average, MetaStep, Rois, VirtualSgd
from benchmark.classifiers.per_category import BalancedPerCategoryClassifier, PerCategoryClassifier
from benchmark.classifiers.state import RunningSum, Total
from benchmark.classifiers.suppression import foreground_weights, infrequent_share, random_weights
from benchmark.classifiers.targets import one_hot

__all__ = [
    "LEAST_GUMBEL_LOGIT",
    "RELEASED_FLOOR",
    "Average",
    "BalancedPerCategoryClassifier",
    "CategoricalClassifier",
    "Classifier",
    "LinearClassifier",
    "MetaStep",
    "NormedConv2d",
    "NormedLinear",
    "PerCategoryClassifier",
    "Rois",
    "RunningSum",
    "Total",
    "VirtualSgd",
    "constant_",
    "foreground_weights",
    "gumbel",
    "gumbel_loss",
    "infrequent_share",
    "mean_up_to",
    "normal",
    "normal_loss",
    "one_hot",
    "random_weights",
    "scores_without_background",
    "sigmoid_loss",
]
