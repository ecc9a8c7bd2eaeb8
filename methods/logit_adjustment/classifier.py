"""Logit adjustment (Menon et al., ICLR 2021): the log of the class prior, in the loss or in testing.

As public codes for LVIS have it: in training ``iif_loss.py`` (variant log_adj) and ``balanced_softmax.py`` of
LongTailActivations, in testing NorCal's and FRACAL's calibration. All of them leave out background's prior.
"""

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import CategoricalClassifier, constant_
from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics, counts_and_total, rarity

When = Literal["training", "testing"]
Prior = Literal["image_counts", "image_share", "instance_share"]
LINKS = {"e": "raw", "10": "base10"}


def log_prior(statistics: ClassStatistics, prior: Prior, logarithm: str, when: When) -> np.ndarray:
    """log pi (C,): of a category's images n_j, or of its share f_j of the images or of the instances.

    In testing, a share is taken relative to the uniform one: log f_j - log(1/C), as FRACAL does. A constant
    matters: it moves all categories against background.
    """
    if prior == "image_counts":
        counts = np.maximum(statistics.image_counts, 1.0)
        return np.log(counts) / (np.log(10) if logarithm == "10" else 1)
    counts, total = counts_and_total(statistics, "images" if prior == "image_share" else "instances")
    log_share = -rarity(LINKS[logarithm], counts, total)
    if when == "training":
        return log_share
    return log_share + rarity(LINKS[logarithm], np.ones(1), float(len(counts)))


class LogitAdjusted(CategoricalClassifier):
    """Logits (N, C + 1), background last.

    Args:
        when: ``training``: the loss sees z + tau log pi, scores are softmax(z). ``testing``: the loss sees z,
            scores are softmax(z - tau log pi).
        tau: weight of the prior; 0 is plain softmax.
        prior: pi.
        logarithm: its base, ``e`` or ``10``.
        background_offset: what the loss subtracts from background's logit; 1 in the release, where it is left
            over from another loss.
        initial_weight: of the classifier, every one; None for N(0, 0.01).
    """

    offsets: Tensor  # tau log pi (C + 1,) float64, 0 for background

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        when: When = "training",
        tau: float = 1.0,
        prior: Prior = "image_share",
        logarithm: str = "e",
        background_offset: float = 0.0,
        initial_weight: float | None = None,
    ) -> None:
        super().__init__(in_features, statistics)
        for name, found, known in (
            ("when", when, get_args(When)),
            ("prior", prior, get_args(Prior)),
            ("logarithm", logarithm, tuple(LINKS)),
        ):
            if found not in known:
                raise BenchmarkError(f"unknown {name}", found=found, expected=" or ".join(known))
        if initial_weight is not None:
            constant_(self.linear, initial_weight, 0.0)
        self.when, self.background_offset = when, background_offset
        offsets = torch.as_tensor(tau * log_prior(statistics, prior, logarithm, when))
        self.register_buffer("offsets", F.pad(offsets, (0, 1)), persistent=False)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(z_n + tau log pi, y_n); plain cross entropy where testing adjusts."""
        if self.when == "testing":
            return super().loss(logits, labels)
        offsets = self.offsets.clone()
        offsets[-1] -= self.background_offset
        return super().loss(logits + offsets.to(logits.dtype), labels)

    def scores(self, logits: Tensor) -> Tensor:
        """softmax(z), or softmax(z - tau log pi) where testing adjusts; background's logit never changes."""
        if self.when == "training":
            return logits.softmax(dim=1)
        return (logits - self.offsets.to(logits.dtype)).softmax(dim=1)
