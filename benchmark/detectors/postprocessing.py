"""From scored boxes to detections by the LVIS test protocol, the same for all back ends."""

import torch
from torch import Tensor
from torchvision.ops import remove_small_boxes

from benchmark.detectors.boxes import Size, suppressed
from benchmark.detectors.interface import Detections
from benchmark.detectors.masks import paste_masks
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import TestSettings

SMALLEST_SIDE = 1e-2  # pixels; nothing smaller is a detection


def select(boxes: Tensor, scores: Tensor, test: TestSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, 4), labels and scores that remain after threshold, suppression and cap, best first.

    Args:
        boxes: (N, C, 4), or (N, 1, 4) where all categories share a box.
        scores: (N, C + 1), background last.
        test: thresholds.
    """
    roi, label = (scores[:, :-1] > test.score_threshold).nonzero(as_tuple=True)
    chosen = boxes[roi, label if boxes.shape[1] > 1 else 0]
    score = scores[roi, label]
    solid = remove_small_boxes(chosen, min_size=SMALLEST_SIDE)
    chosen, label, score = chosen[solid], label[solid], score[solid]
    keep = suppressed(chosen, score, label, test.nms_threshold, test.max_detections)
    return chosen[keep], label[keep], score[keep]


def in_original_pixels(
    kept: tuple[Tensor, Tensor, Tensor],
    masks: tuple[Tensor, Tensor] | None,
    settings: DetectorSettings,
    mask_threshold: float,
    *,
    from_size: Size,
    to_size: Size,
) -> Detections:
    """Detections in pixels of the original image, on the CPU, with masks.

    Args:
        kept: boxes, labels and scores of an image.
        masks: probabilities (m, M, M), and which of these masks each box has, (n,) int64; or None.
        settings: of the detector.
        mask_threshold: probability from which a pixel is foreground.
        from_size: height and width of the image as the detector saw it.
        to_size: height and width of the original.
    """
    boxes, labels, scores = kept
    height, width = to_size[0] / from_size[0], to_size[1] / from_size[1]
    if settings.coordinates == "mmdet_v1":
        # in MMDetection 1 a box ends in its last pixel, and the factor multiplies that pixel's coordinate
        boxes = boxes + boxes.new_tensor([0, 0, 1 / width - 1, 1 / height - 1])
    boxes = boxes * torch.tensor([width, height, width, height], device=boxes.device)
    pasted = None
    if masks is not None:
        probabilities, owners = masks
        places = boxes.new_empty(len(probabilities), 4).index_copy(0, owners, boxes)
        pasted = paste_masks(probabilities, places, to_size, mask_threshold, settings.mask_pasting, owners)
    return Detections(boxes.cpu(), labels.cpu(), scores.cpu(), pasted)
