"""From scored boxes to detections, alike for all back ends: the LVIS test protocol."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops import boxes as box_ops

from benchmark.detectors.interface import Detections
from benchmark.detectors.masks import paste_masks
from benchmark.recipes.models import TestSettings


def select(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], test: TestSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, 4), labels and scores that survive threshold, suppression and the cap, best first.

    Args:
        boxes: (N, C, 4), or (N, 1, 4) where all categories share a box.
        scores: (N, C + 1), background last.
        size: height and width that boxes are clipped to.
        test: thresholds.
    """
    boxes = box_ops.clip_boxes_to_image(boxes, size)
    roi, label = (scores[:, :-1] > test.score_threshold).nonzero(as_tuple=True)
    chosen = boxes[roi, label if boxes.shape[1] > 1 else 0]
    score = scores[roi, label]
    solid = box_ops.remove_small_boxes(chosen, min_size=1e-2)
    chosen, label, score = chosen[solid], label[solid], score[solid]
    keep = batched_nms(chosen, score, label, test.nms_threshold)[: test.max_detections]
    return chosen[keep], label[keep], score[keep]


def with_a_pixel(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) of which at least one pixel is inside the image, as mmdetection 1 clips them."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        [x1.clamp(max=width - 1), y1.clamp(max=height - 1), x2.clamp(min=1), y2.clamp(min=1)], dim=-1
    )


def finish(
    kept: tuple[Tensor, Tensor, Tensor],
    masks: Tensor | None,
    mask_threshold: float,
    *,
    from_size: tuple[int, int],
    to_size: tuple[int, int],
    coordinates: str = "aligned",
) -> Detections:
    """Back to the original image's pixels, on the CPU, masks compressed.

    Args:
        kept: boxes, labels and scores of an image.
        masks: mask probabilities (n, M, M) in those boxes, or None.
        mask_threshold: probability from which a pixel is foreground.
        from_size: height and width of the image as the detector saw it.
        to_size: height and width of the original.
        coordinates: those of the detector's settings.
    """
    boxes, labels, scores = kept
    height, width = to_size[0] / from_size[0], to_size[1] / from_size[1]
    if coordinates == "mmdet_v1":
        # there a box ends in its last pixel, and that pixel is what the factor multiplies
        boxes = boxes + boxes.new_tensor([0, 0, 1 / width - 1, 1 / height - 1])
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    rles = None if masks is None else paste_masks(masks, boxes, to_size, mask_threshold)
    return Detections(boxes.cpu(), labels.cpu(), scores.cpu(), rles)
