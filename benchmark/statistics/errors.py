"""The package's one exception type."""

from benchmark.errors import BenchmarkError


class StatisticsError(BenchmarkError):
    """A table of class statistics is damaged, or does not have the numbers that a computation needs."""
