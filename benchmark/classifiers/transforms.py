"""Transform stages that several methods use."""

from torch import nn

from benchmark.statistics import ClassStatistics


def keep(detector: nn.Module, statistics: ClassStatistics) -> None:
    """Keep the weights as they are, for a variant that only changes how the model of another one is
    tested."""
