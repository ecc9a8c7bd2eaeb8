"""Mask targets and pasted masks are those of the frameworks."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from tiny_detectors import BACKENDS
from torch import Tensor

from benchmark.detectors.masks import mask_targets, paste_masks
from benchmark.images import Target

BOXES = torch.tensor(
    [[3.0, 5, 12, 30], [-4, -4, 8, 8], [20, 20, 70, 60], [1.2, 1.2, 3.8, 4.1], [5, 5, 5.3, 5.4]]
)
needs_detectron2 = pytest.mark.skipif(
    "detectron2" not in BACKENDS, reason="back end 'detectron2' is not installed"
)


def planes(masks: Tensor, boxes: Tensor, size: tuple[int, int], pasting: str = "grid") -> np.ndarray:
    return coco_mask.decode(paste_masks(masks, boxes, size, 0.5, pasting)).transpose(2, 0, 1)


def blobs(count: int) -> Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(count, 1, 4, 4), (28, 28), mode="bicubic")[:, 0].clamp(
        0, 1
    )


def target() -> Target:
    torch.manual_seed(1)
    masks = torch.nn.functional.interpolate(torch.rand(1, 4, 6, 6), (60, 80), mode="bicubic")[0] > 0.5
    return Target(torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64), masks.to(torch.uint8))


def test_a_mask_of_ones_is_its_box() -> None:
    """To the pixel whose middle lies in it, whatever lies outside of the image."""
    found = planes(torch.ones(5, 28, 28), BOXES, (40, 50))
    centres = torch.arange(50) + 0.5
    for plane, (x1, y1, x2, y2) in zip(found, BOXES.tolist(), strict=True):
        inside = ((centres[:40] > y1) & (centres[:40] < y2))[:, None] & ((centres > x1) & (centres < x2))
        assert np.array_equal(plane, inside.numpy())
    assert paste_masks(torch.ones(0, 28, 28), BOXES[:0], (40, 50), 0.5) == []


@needs_detectron2
def test_masks_are_pasted_as_in_detectron2() -> None:
    from detectron2.layers import paste_masks_in_image

    boxes = torch.cat([BOXES, BOXES * 1.7 - 3])
    expected = paste_masks_in_image(blobs(10), boxes, (40, 50), 0.5).numpy()
    assert np.array_equal(planes(blobs(10), boxes, (40, 50)), expected)


@pytest.mark.skipif("mmdet" not in BACKENDS, reason="back end 'mmdet' is not installed")
def test_masks_are_pasted_as_in_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    expected, _ = _do_paste_mask(blobs(5)[:, None], BOXES, 40, 50, skip_empty=False)
    assert np.array_equal(planes(blobs(5), BOXES, (40, 50)), (expected >= 0.5).numpy())


def test_mmdetection_1_pastes_into_whole_pixels() -> None:
    """``get_seg_masks`` of version 1.0: the box is cut to whole numbers, and the mask resized to it."""
    cv2 = pytest.importorskip("cv2")
    masks = blobs(5)
    boxes = torch.tensor(
        [[3.7, 5.2, 12.9, 30.1], [0, 0, 8, 8], [20.5, 10.5, 49.9, 39.9], [1.2, 1.2, 3.8, 4.1], [5, 5, 6, 6]]
    )
    for plane, mask, box in zip(planes(masks, boxes, (40, 50), "whole_pixels"), masks, boxes, strict=True):
        x1, y1, x2, y2 = (box - torch.tensor([0, 0, 1, 1])).numpy().astype(np.int32)  # its last pixel
        resized = cv2.resize(mask.numpy(), (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)))
        expected = np.zeros((40, 50), np.uint8)
        expected[y1 : y1 + resized.shape[0], x1 : x1 + resized.shape[1]] = resized > 0.5
        assert np.array_equal(plane, expected)


def test_targets_are_the_matched_objects_in_their_boxes() -> None:
    truth = target()
    assert truth.masks is not None
    whole = torch.tensor([[0.0, 0, 80, 60]] * 3)
    found = mask_targets(truth, whole, torch.tensor([2, 0, 2]), 40)
    assert found.shape == (3, 40, 40)
    assert found.dtype == torch.float32
    assert set(found.unique().tolist()) == {0, 1}
    assert found[0].equal(found[2])
    share = truth.masks.float().mean(dim=(1, 2))
    torch.testing.assert_close(found.mean(dim=(1, 2)), share[[2, 0, 2]], rtol=0, atol=0.02)
    assert mask_targets(truth, whole[:0], torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)


@needs_detectron2
def test_targets_are_those_of_detectron2() -> None:
    from detectron2.structures import BitMasks

    truth, matched = target(), torch.tensor([0, 3, 1, 1, 2])
    assert truth.masks is not None
    expected = BitMasks(truth.masks)[matched].crop_and_resize(BOXES, 28)
    assert mask_targets(truth, BOXES, matched, 28).equal(expected.float())


@pytest.mark.skipif("mmdet" not in BACKENDS, reason="back end 'mmdet' is not installed")
def test_targets_are_those_of_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.structures.mask import BitmapMasks

    truth, matched = target(), np.array([0, 3, 1, 1, 2])
    assert truth.masks is not None
    masks = BitmapMasks(truth.masks.numpy(), 60, 80)
    expected = masks.crop_and_resize(BOXES.numpy(), (28, 28), matched).to_ndarray()
    found = mask_targets(truth, BOXES, torch.from_numpy(matched), 28)
    assert np.array_equal(found.numpy(), expected.astype(np.float32))
