"""Inputs of the golden cases of GOL as our objects."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from helpers import statistics_of
from torch import Tensor

from benchmark.statistics import ClassStatistics

ANNOTATED_IMAGES = 99388  # of LVIS v1; the frequencies of the cases are counts divided by it


def statistics_with(class_frequency: Sequence[float]) -> ClassStatistics:
    """Class statistics whose float32 image frequencies are exactly the given ones."""
    counts = np.round(np.array(class_frequency) * ANNOTATED_IMAGES).astype(int)
    assert ((counts / ANNOTATED_IMAGES).astype(np.float32) == np.array(class_frequency, np.float32)).all()
    return replace(statistics_of(counts.tolist()), num_annotated_images=ANNOTATED_IMAGES)


def matrix(values: Any) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def logits_and_labels(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits that collect a gradient, and labels."""
    return matrix(case["inputs"]["logits"]).requires_grad_(), torch.tensor(case["inputs"]["labels"])


def element_weights(case: dict[str, Any], labels: Tensor) -> Tensor:
    """Weights of the rows (N, 1): the case's, and 0 for ignored rows. The benchmark itself has none."""
    given = case["inputs"]["label_weights"]
    weights = torch.ones(len(labels), dtype=torch.float64) if given is None else matrix(given)
    return torch.where(labels < 0, 0.0, weights)[:, None]
