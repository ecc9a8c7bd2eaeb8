"""Parts that back ends share, where their frameworks have none or none with a generator of each image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers import Classifier
from benchmark.detectors.interface import ChooseRoIs, image_numbers

IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of torchvision's ImageNet weights


class FrozenStatisticsNorm(nn.BatchNorm2d):
    """Batch norm that always uses its stored mean and variance; scale and shift are ordinary parameters."""

    def train(self, mode: bool = True) -> "FrozenStatisticsNorm":
        """Stays in evaluation mode."""
        super().train(False)
        return self


def draw(
    labels: Tensor, size: int, positive_fraction: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Masks (N,) of the foreground and the background that are drawn of one image.

    Args:
        labels: (N,) above 0 for foreground, 0 for background, below 0 for what is never drawn.
        size: drawn in all, or fewer if there are no more.
        positive_fraction: of ``size``, at most foreground.
        generator: of the image's draws, on the device of the labels; None: PyTorch's default generator.
    """
    positive, negative = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
    left = size
    for mask, candidates, most in (
        (positive, labels > 0, int(size * positive_fraction)),
        (negative, labels == 0, size),
    ):
        found = candidates.nonzero().squeeze(1)
        order = torch.randperm(len(found), generator=generator, device=labels.device)
        drawn = found[order[: min(most, left)]]
        mask[drawn] = True
        left -= len(drawn)
    return positive, negative


def chosen_rois(labels: list[Tensor], choose: ChooseRoIs | None) -> list[Tensor]:
    """Whether each of the RoIs is kept, per image."""
    if choose is None:
        return [torch.ones_like(label, dtype=torch.bool) for label in labels]
    flat = torch.cat(labels)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[choose(flat, image_numbers(labels))] = True
    return list(kept.split([len(label) for label in labels]))


def box_head_features(
    first: nn.Module, second: nn.Module, pooled: Tensor, classifier: Classifier
) -> tuple[Tensor, Tensor]:
    """What a box head of two layers makes of pooled features (N, P).

    Returns:
        Features as the classifier takes them, (N, D) or (N, D + P), and those of the regressor, (N, D).
    """
    raw = second(F.relu(first(pooled)))
    activated = F.relu(raw)
    classified = raw if classifier.before_activation else activated
    if classifier.takes_pooled:
        classified = torch.cat([classified, pooled], dim=1)
    return classified, activated


def as_list(one_or_many: Any) -> list[Any]:
    """The stages of a cascade, or the only one."""
    return list(one_or_many) if isinstance(one_or_many, (list, nn.ModuleList)) else [one_or_many]


def of_label(masks: Tensor, labels: Tensor) -> Tensor:
    """Each label's channel (n, M, M) of masks (n, C, M, M), or (n, 1, M, M) that all categories share."""
    column = labels if masks.shape[1] > 1 else torch.zeros_like(labels)
    return masks[torch.arange(len(masks), device=masks.device), column]
