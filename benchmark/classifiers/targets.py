"""Target matrices shared by losses."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot rows (N, C) of labels (N,) in ``0..C``; a background row (label C) is all zeros."""
    categories = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == categories).to(dtype)
