"""The classifier interface and the building blocks that methods share."""

from benchmark.classifiers.cosine import NormedConv2d, NormedLinear
from benchmark.classifiers.initialisation import constant_
from benchmark.classifiers.interface import Classifier, LinearClassifier
from benchmark.classifiers.links import (
    RELEASED_FLOOR,
    gumbel,
    gumbel_loss,
    mean_up_to,
    normal,
    normal_loss,
    sigmoid_loss,
)
from benchmark.classifiers.suppression import foreground_weights, infrequent_share, random_weights
from benchmark.classifiers.targets import one_hot

__all__ = [
    "RELEASED_FLOOR",
    "Classifier",
    "LinearClassifier",
    "NormedConv2d",
    "NormedLinear",
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
    "sigmoid_loss",
]
