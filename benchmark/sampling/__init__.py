"""Which training image comes when."""

from benchmark.sampling.randomness import seeded
from benchmark.sampling.stream import ImageStream, StreamBatches, round_stochastically

__all__ = ["ImageStream", "StreamBatches", "round_stochastically", "seeded"]
