"""Conversion from the layout of the BAGS release (label and column 0 are background) to ours (background
last)."""

from typing import Any

import torch
from torch import Tensor


def labels_from_released(labels: list[int], num_classes: int) -> Tensor:
    """Labels (N,), C meaning background."""
    label = torch.tensor(labels, dtype=torch.int64)
    return torch.where(label == 0, num_classes, label - 1)


def background_last(values: list[Any], columns: int = 0) -> Tensor:
    """A float64 matrix whose first column, or vector whose first entry, moves to the end.

    No values are a matrix without rows, where ``columns`` are given.
    """
    if columns and not values:
        return torch.zeros(0, columns, dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).roll(-1, dims=-1)
