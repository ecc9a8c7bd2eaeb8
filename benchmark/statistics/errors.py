"""The package's one exception type."""

from benchmark.errors import BenchmarkError


class StatisticsError(BenchmarkError):
    """A table of class statistics is damaged, or a computation was asked of numbers that do not allow it."""
