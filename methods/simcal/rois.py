"""The proposal level of SimCal's bi-level sampling; the image level is in ``sampler.py``."""

import torch
from torch import Tensor


def balanced_rois(labels: Tensor, image_numbers: Tensor, drawn: Tensor, num_classes: int) -> Tensor:
    """The RoIs of a step: foreground of the drawn categories, and an equal number of random background RoIs.

    Args:
        labels: (N,) in ``0..C``.
        image_numbers: (N,), the image of each RoI.
        drawn: (images,), the category that each image was drawn for.
        num_classes: C.

    Returns:
        Indices of the chosen RoIs.
    """
    background = int((labels == num_classes).sum())
    order = torch.randperm(background).to(labels.device)
    return first_of_background(labels, image_numbers, drawn, num_classes, order)


def first_of_background(
    labels: Tensor, image_numbers: Tensor, drawn: Tensor, num_classes: int, order: Tensor
) -> Tensor:
    """``balanced_rois`` for a given ``order`` of the background RoIs of all images; background comes first.

    An image contributes only RoIs of the category for which it was drawn; none if none were sampled.
    """
    foreground = (labels == drawn[image_numbers]).nonzero().squeeze(1)
    background = (labels == num_classes).nonzero().squeeze(1)[order][: len(foreground)]
    return torch.cat([background, foreground])
