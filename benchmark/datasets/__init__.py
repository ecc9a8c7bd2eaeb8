"""Getting data sets ready: what they consist of, fetched, linked or rebuilt, and checked."""

from benchmark.datasets.errors import DatasetError
from benchmark.datasets.prepare import Prepared, prepare_dataset

__all__ = ["DatasetError", "Prepared", "prepare_dataset"]
