"""Scores of independent sigmoids of which one is background."""

import torch
from torch import Tensor


def scores_without_background(probabilities: Tensor) -> Tensor:
    """p_nj (1 - p_nC) for the categories j, and p_nC for background.

    Args:
        probabilities: (N, C + 1) in [0, 1], background last; rows need not sum to 1.
    """
    background = probabilities[:, -1:]
    return torch.cat([probabilities[:, :-1] * (1 - background), background], dim=1)
