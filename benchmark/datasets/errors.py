"""The error of this package."""

from benchmark.errors import BenchmarkError


class DatasetError(BenchmarkError):
    """A file of a dataset is not the expected one, or cannot be made."""
