"""The order of the training images."""

from benchmark.sampling.images import LabelledImages
from benchmark.sampling.randomness import seeded
from benchmark.sampling.stream import (
    AlikeStream,
    CategoryStream,
    DrawnStream,
    ImageStream,
    PairedBatches,
    StreamBatches,
    round_stochastically,
)

__all__ = [
    "AlikeStream",
    "CategoryStream",
    "DrawnStream",
    "ImageStream",
    "LabelledImages",
    "PairedBatches",
    "StreamBatches",
    "round_stochastically",
    "seeded",
]
