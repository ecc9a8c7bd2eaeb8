"""Which training image comes when."""

from benchmark.sampling.randomness import seeded
from benchmark.sampling.stream import (
    AlikeStream,
    CategoryFirstStream,
    DrawnStream,
    ImageStream,
    PairedBatches,
    StreamBatches,
    round_stochastically,
)

__all__ = [
    "AlikeStream",
    "CategoryFirstStream",
    "DrawnStream",
    "ImageStream",
    "PairedBatches",
    "StreamBatches",
    "round_stochastically",
    "seeded",
]
