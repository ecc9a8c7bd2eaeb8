"""Inputs of the golden cases of GOL as our objects."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from helpers import statistics_of
from torch import Tensor

from benchmark.statistics import ClassStatistics

IMAGES = 2**52  # every frequency that float32 can hold and that is not tiny is a whole number of so many


def statistics_with(class_frequency: Sequence[float]) -> ClassStatistics:
    """Class statistics whose float32 image frequencies are exactly the given ones."""
    frequency = np.array(class_frequency, np.float32)
    counts = (frequency.astype(np.float64) * IMAGES).astype(np.int64)
    assert ((counts / IMAGES).astype(np.float32) == frequency).all()
    return replace(statistics_of(counts.tolist()), num_annotated_images=IMAGES)


def matrix(values: Any) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def logits_and_labels(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits that collect a gradient, and labels."""
    return matrix(case["inputs"]["logits"]).requires_grad_(), torch.tensor(case["inputs"]["labels"])


def element_weights(case: dict[str, Any], labels: Tensor) -> Tensor:
    """The row weights (N, 1) of the case, 0 for ignored rows; the project itself has no row weights."""
    given = case["inputs"]["label_weights"]
    weights = torch.ones(len(labels), dtype=torch.float64) if given is None else matrix(given)
    return torch.where(labels < 0, 0.0, weights)[:, None]
