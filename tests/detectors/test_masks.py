"""Pasting is exact, and run lengths equal those of pycocotools for the whole mask."""

import numpy as np
import pytest
import torch
from helpers import instance_masks
from pycocotools import mask as coco_mask
from tiny_detectors import BACKENDS
from torch import Tensor
from torch.nn import functional as F

from benchmark.detectors import masks as module
from benchmark.detectors.masks import mask_targets, paste_masks
from benchmark.images import Target
from benchmark.recipes.detector_settings import Pasting

SIZE = (48, 64)
# inside, at every border, beyond each, around the image, outside of it, thin, of a pixel, and between pixels
BOXES = torch.tensor(
    [
        [10.0, 5, 40, 30],
        [0, 0, 64, 48],
        [-8.5, -3.25, 20.5, 12],
        [50, 30, 80.5, 60],
        [-30, -30, 100, 90],
        [70, 5, 90, 20],
        [-20, -20, -5, -5],
        [12.25, 4, 12.75, 44],
        [3, 20, 60, 20.4],
        [7, 9, 8, 10],
        [7.3, 9.6, 8.2, 10.4],
        [30, 0, 34, 48],
        [0, 16, 64, 17],
    ]
)
# what the frameworks are asked for: none is wholly outside, where detectron2 fails
PASTED = torch.tensor(
    [[3.0, 5, 12, 30], [-4, -4, 8, 8], [20, 20, 70, 60], [1.2, 1.2, 3.8, 4.1], [5, 5, 5.3, 5.4]]
)
ROIS = PASTED.clamp(min=0)  # proposals are cut to the image
needs_detectron2 = pytest.mark.skipif(
    "detectron2" not in BACKENDS, reason="back end 'detectron2' is not installed"
)
needs_mmdet = pytest.mark.skipif("mmdet" not in BACKENDS, reason="back end 'mmdet' is not installed")


def planes(masks: Tensor, boxes: Tensor, size: tuple[int, int], pasting: Pasting = "grid") -> np.ndarray:
    return coco_mask.decode(paste_masks(masks, boxes, size, 0.5, pasting).rles).transpose(2, 0, 1)


def blobs() -> Tensor:
    """(4, 60, 80) uint8."""
    torch.manual_seed(1)
    return (F.interpolate(torch.rand(1, 4, 6, 6), (60, 80), mode="bicubic")[0] > 0.5).byte()


def probabilities(count: int) -> Tensor:
    """(count, 28, 28): smooth, some far into 0 and 1, one of ones and one of zeros."""
    torch.manual_seed(0)
    coarse = torch.randn(count, 1, 5, 5)
    masks = F.interpolate(coarse, size=(28, 28), mode="bicubic").mul(4).sigmoid()[:, 0]
    masks[0], masks[1] = 1, 0
    return masks


def whole(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> list[bytes]:
    """The same with ``grid_sample`` into the whole image and pycocotools, in float64."""
    codes = []
    for mask, (x1, y1, x2, y2) in zip(masks.double(), boxes.double().tolist(), strict=True):
        x = (torch.arange(size[1], dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(size[0], dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        pasted = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        codes.append(coco_mask.encode(np.asfortranarray((pasted >= threshold).byte().numpy()))["counts"])
    return codes


@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.9, 1e-6])
def test_codes_are_pycocotools_of_the_whole_image(threshold: float) -> None:
    masks = probabilities(3 * len(BOXES))
    boxes = torch.cat([BOXES, BOXES.roll(1, 0), BOXES.flip(0)])
    rles = paste_masks(masks, boxes, SIZE, threshold).rles
    assert all(rle["size"] == list(SIZE) for rle in rles)
    assert [rle["counts"] for rle in rles] == whole(masks, boxes, SIZE, threshold)


def random_boxes(count: int) -> Tensor:
    """(count, 4): from a tenth of a pixel to larger than the image, also across its borders and behind them;
    every fourth is a whole pixel."""
    generator = torch.Generator().manual_seed(2)
    height, width = SIZE
    sides = 10 ** (3.3 * torch.rand(count, 2, generator=generator) - 1)
    first = (1.5 * torch.rand(count, 2, generator=generator) - 0.25) * torch.tensor([width, height])
    first[::4], sides[::4] = first[::4].floor(), 1
    return torch.cat([first, first + sides], dim=1)


def test_masks_in_random_boxes_are_those_of_the_whole_image() -> None:
    """Together and alone, to the byte; a few pixels lie on the threshold, where float32 decides."""
    boxes = random_boxes(200)
    masks = probabilities(len(boxes))
    rles = paste_masks(masks, boxes, SIZE, 0.5).rles
    alone = [paste_masks(masks[n : n + 1], boxes[n : n + 1], SIZE, 0.5).rles[0] for n in range(len(boxes))]
    assert rles == alone
    expected = whole(masks, boxes, SIZE, 0.5)
    assert sum(rle["counts"] != code for rle, code in zip(rles, expected, strict=True)) <= 2
    areas = coco_mask.area(rles)
    assert (areas == 0).sum() > 20
    assert (areas == 1).sum() > 10
    assert areas.max() > 500


def test_detections_may_share_a_mask() -> None:
    masks = probabilities(len(BOXES))
    numbers = torch.tensor([2, 0, 2, 1])
    alone = paste_masks(masks, BOXES, SIZE, 0.5).rles
    shared = paste_masks(masks, BOXES, SIZE, 0.5, numbers=numbers).rles
    assert shared == [alone[number] for number in numbers.tolist()]


def test_full_columns_join() -> None:
    """Runs continue from the end of a column to the start of the next, up to the last pixel of the image."""
    boxes = torch.tensor([[-10.0, -10, 90, 90], [20, -10, 40, 90], [20, -10, 90, 90], [20, 5, 40, 90]])
    rles = paste_masks(torch.ones(4, 28, 28), boxes, SIZE, 0.5).rles
    assert coco_mask.area(rles).tolist() == [64 * 48, 20 * 48, 44 * 48, 20 * 43]
    for rle in rles:
        assert coco_mask.encode(coco_mask.decode(rle))["counts"] == rle["counts"]


def test_a_mask_of_ones_is_its_box_to_the_pixel_whose_centre_lies_in_it() -> None:
    for rle, (x1, y1, x2, y2) in zip(
        paste_masks(torch.ones(len(BOXES), 28, 28), BOXES, SIZE, 0.5).rles, BOXES.tolist(), strict=True
    ):
        x, y = np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5
        expected = ((y >= y1) & (y <= y2))[:, None] & ((x >= x1) & (x <= x2))
        assert np.array_equal(coco_mask.decode(rle), expected)


def test_memory_is_bounded_and_the_result_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = probabilities(len(BOXES))
    at_once = paste_masks(masks, BOXES, SIZE, 0.5).rles
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 100)
    assert paste_masks(masks, BOXES, SIZE, 0.5).rles == at_once


def test_mixed_precision_changes_nothing() -> None:
    masks = probabilities(len(BOXES))
    with torch.autocast("cpu", torch.bfloat16):
        found = paste_masks(masks, BOXES, SIZE, 0.5).rles
    assert found == paste_masks(masks, BOXES, SIZE, 0.5).rles


def test_nothing_to_paste() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE, 0.5).rles == []


def test_what_is_not_finite_is_no_foreground() -> None:
    """Masks of a model that diverges, and boxes without an area."""
    masks, boxes = torch.ones(2, 28, 28), torch.tensor([[1.0, 1, 20, 20], [5, 5, 5, 9]])
    masks[0] = torch.nan
    assert coco_mask.area(paste_masks(masks, boxes, SIZE, 0.5).rles).tolist() == [0, 0]


@needs_detectron2
def test_masks_are_pasted_as_in_detectron2() -> None:
    from detectron2.layers import paste_masks_in_image

    boxes = torch.cat([PASTED, PASTED * 1.7 - 3])
    expected = paste_masks_in_image(probabilities(10), boxes, (40, 50), 0.5).numpy()
    assert np.array_equal(planes(probabilities(10), boxes, (40, 50)), expected)


@needs_mmdet
def test_masks_are_pasted_as_in_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    expected, _ = _do_paste_mask(probabilities(5)[:, None], PASTED, 40, 50, skip_empty=False)
    assert np.array_equal(planes(probabilities(5), PASTED, (40, 50)), (expected >= 0.5).numpy())


def test_mmdetection_1_pastes_into_whole_pixels() -> None:
    """``get_seg_masks`` of version 1.0: the box is cut to whole numbers, and the mask resized to it."""
    cv2 = pytest.importorskip("cv2")
    masks = probabilities(5)
    boxes = torch.tensor(
        [[3.7, 5.2, 12.9, 30.1], [0, 0, 8, 8], [20.5, 10.5, 49.9, 39.9], [1.2, 1.2, 3.8, 4.1], [5, 5, 6, 6]]
    )
    for plane, mask, box in zip(planes(masks, boxes, (40, 50), "whole_pixels"), masks, boxes, strict=True):
        x1, y1, x2, y2 = (box - torch.tensor([0, 0, 1, 1])).numpy().astype(np.int32)  # its last pixel
        resized = cv2.resize(mask.numpy(), (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)))
        expected = np.zeros((40, 50), np.uint8)
        expected[y1 : y1 + resized.shape[0], x1 : x1 + resized.shape[1]] = resized > 0.5
        assert np.array_equal(plane, expected)


def test_targets_are_those_of_the_ground_truth() -> None:
    bitmaps = torch.zeros(2, 40, 40)
    bitmaps[0, 5:25, 10:30] = 1
    bitmaps[1, :20] = 1
    boxes, matched = torch.tensor([[0.0, 0, 40, 40], [10, 5, 30, 25]]), torch.tensor([1, 0])
    target = Target(boxes[:0], matched[:0], instance_masks(bitmaps))
    found = mask_targets(target, boxes, matched, 4)
    assert found.equal(torch.stack([torch.tensor([1.0, 1, 0, 0])[:, None].expand(4, 4), torch.ones(4, 4)]))


@needs_detectron2
def test_targets_are_those_of_detectron2() -> None:
    from detectron2.structures import BitMasks

    matched, boxes = torch.tensor([0, 3, 1, 1, 2]), ROIS
    expected = BitMasks(blobs())[matched].crop_and_resize(boxes, 28)
    truth = Target(boxes, matched, instance_masks(blobs(), "bitmaps"))
    assert mask_targets(truth, boxes, matched, 28).equal(expected.float())


@needs_mmdet
def test_targets_are_those_of_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.structures.mask import BitmapMasks

    matched, boxes = torch.tensor([0, 3, 1, 1, 2]), ROIS
    masks = BitmapMasks(blobs().numpy(), 60, 80)
    expected = masks.crop_and_resize(boxes.numpy(), (28, 28), matched.numpy()).to_ndarray()
    found = mask_targets(Target(boxes, matched, instance_masks(blobs(), "bitmaps")), boxes, matched, 28)
    assert np.array_equal(found.numpy(), expected.astype(np.float32))
