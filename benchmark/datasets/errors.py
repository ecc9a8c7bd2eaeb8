"""The error of this package."""

from benchmark.errors import BenchmarkError


class DatasetError(BenchmarkError):
    """A file of a dataset is another one than it should be, or cannot be made."""
