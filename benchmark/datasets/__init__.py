"""Preparing datasets: downloading, linking, rebuilding and checking their files."""

from benchmark.datasets.errors import DatasetError
from benchmark.datasets.prepare import Prepared, prepare_dataset

__all__ = ["DatasetError", "Prepared", "prepare_dataset"]
