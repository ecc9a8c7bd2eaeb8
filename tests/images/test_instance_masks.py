"""Mask targets are exact at the RoI and equal the releases' to the pixel, without a bitmap of the image."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import instance_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align

from benchmark.annotations import read_annotations
from benchmark.detectors.masks import paste_masks
from benchmark.images import InstanceMasks
from benchmark.images import masks as module
from benchmark.images.dataset import resized
from benchmark.recipes.detector_settings import MaskTargets

SIDE = 28
LVIS = Path(__file__).parents[1] / "data" / "lvis_val_100.json"
Polygons = list[np.ndarray]


def bitmap_of(polygons: Polygons, height: int, width: int) -> Tensor:
    """The bitmap (height, width) by pycocotools."""
    code = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width))
    return torch.from_numpy(coco_mask.decode(code))


@cache
def real_objects() -> list[tuple[list[Polygons], Tensor, tuple[int, int]]]:
    """Polygons, boxes (n, 4) xyxy and size of the images of LVIS that have objects."""
    file = read_annotations(LVIS)
    groups, images = file.annotations_by_image(), []
    for image in file.images:
        if items := groups[image.id]:
            polygons = [[np.array(polygon) for polygon in item.shape()] for item in items]
            boxes = torch.tensor([item.bbox for item in items])
            boxes[:, 2:] += boxes[:, :2]
            images.append((polygons, boxes, (image.height, image.width)))
    return images


def augmented(
    masks: InstanceMasks, boxes: Tensor, short_edge: int, flip: bool
) -> tuple[InstanceMasks, Tensor]:
    """The objects and boxes after resizing, and after resizing and flipping."""
    height, width = masks.size
    new = resized(height, width, short_edge, 1333)
    masks, boxes = masks.resized(*new), boxes * torch.tensor([new[1] / width, new[0] / height] * 2)
    if flip:
        boxes = torch.stack([new[1] - boxes[:, 2], boxes[:, 1], new[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        masks = masks.flipped()
    return masks, boxes


def proposals(boxes: Tensor, count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """RoIs (count, 4) near ``boxes``, at least a pixel wide and high and inside the image; their objects."""
    matched = torch.randint(len(boxes), (count,))
    near = boxes[matched]
    near = near + torch.randn(count, 4) * 0.15 * (near[:, 2:] - near[:, :2]).repeat(1, 2)
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    first = torch.minimum(near[:, :2].clamp(min=0), last)
    return torch.cat([first, torch.minimum(torch.maximum(near[:, 2:], first + 1), last + 1)], dim=1), matched


def cases(images: int, rois: int) -> Iterator[tuple[list[Polygons], tuple[int, int], int, bool, Any]]:
    """Real objects at different sizes, some mirrored, with RoIs near them."""
    torch.manual_seed(0)
    for number, (polygons, boxes, size) in enumerate(real_objects()[:images]):
        edge, flip = (400, 640, 800)[number % 3], number % 2 == 1
        masks = InstanceMasks.of(polygons, *size)
        masks, boxes = augmented(masks, boxes, edge, flip)
        yield polygons, size, edge, flip, proposals(boxes, rois, masks.size)


def resized_bitmaps(polygons: list[Polygons], size: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bitmaps (n, height, width) of objects, resized to the nearest pixel as OpenCV does."""
    whole = torch.stack([bitmap_of(item, *size) for item in polygons])
    rows, columns = (
        (torch.arange(length).double() * (1 / (length / old))).floor().long()
        for length, old in zip(new, size, strict=True)
    )
    return whole[:, rows][:, :, columns]


# ---- the ways of the releases


def test_polygons_are_rasterised_at_the_roi_as_detectron2_does() -> None:
    for polygons, size, edge, flip, (boxes, matched) in cases(images=24, rois=12):
        masks = InstanceMasks.of(polygons, *size, "polygons")
        masks, _ = augmented(masks, boxes, edge, flip)
        height, width = masks.size
        found = masks.targets(boxes, matched, SIDE)
        for target, box, number in zip(found, boxes.numpy(), matched.tolist(), strict=True):
            # rasterize_polygons_within_box of detectron2/structures/masks.py
            cut = []
            for polygon in polygons[number]:
                points = polygon.reshape(-1, 2) * [width / size[1], height / size[0]]
                if flip:
                    points[:, 0] = width - points[:, 0]
                points = points - box[:2]
                cut.append((points * (SIDE / np.maximum(box[2:] - box[:2], np.float32(0.1)))).ravel())
            assert target.equal(bitmap_of(cut, SIDE, SIDE).float())


def test_bitmaps_are_cropped_as_mmdetection_2_does() -> None:
    """Except cells that are covered to one half, where float32 decides."""
    wrong = total = 0
    for polygons, size, edge, flip, (boxes, matched) in cases(images=24, rois=12):
        masks = InstanceMasks.of(polygons, *size, "bitmaps")
        masks, _ = augmented(masks, boxes, edge, flip)
        bitmaps = resized_bitmaps(polygons, size, masks.size).float()
        bitmaps = bitmaps.flip(-1) if flip else bitmaps
        rois = torch.cat([matched[:, None].float(), boxes], dim=1)
        cropped = roi_align(bitmaps[:, None], rois, SIDE, sampling_ratio=-1, aligned=True)[:, 0]
        wrong += int(((cropped >= 0.5) != masks.targets(boxes, matched, SIDE).bool()).sum())
        total += cropped.numel()
    assert wrong <= 1e-5 * total


def test_bitmaps_are_cropped_as_mmdetection_1_does() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with MMDetection")
    for polygons, size, edge, flip, (boxes, matched) in cases(images=24, rois=12):
        masks = InstanceMasks.of(polygons, *size, "bitmaps_mmdet_v1")
        masks, _ = augmented(masks, boxes, edge, flip)
        bitmaps = resized_bitmaps(polygons, size, masks.size).numpy()
        bitmaps = bitmaps[:, :, ::-1] if flip else bitmaps
        found = masks.targets(boxes, matched, SIDE)
        # there a box ends in its last pixel
        whole = (boxes - torch.tensor([0, 0, 1, 1])).int().tolist()
        for target, (x1, y1, x2, y2), number in zip(found, whole, matched.tolist(), strict=True):
            width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
            crop = np.ascontiguousarray(bitmaps[number, y1 : y1 + height, x1 : x1 + width])
            assert np.array_equal(cv2.resize(crop, (SIDE, SIDE)), target.byte().numpy())


POINT = st.tuples(*[st.integers(-3000, 9000).map(lambda number: number / 100)] * 2)
POLYGONS = st.lists(st.lists(POINT, min_size=3, max_size=9), min_size=1, max_size=3)


@settings(max_examples=200)
@given(POLYGONS)
def test_any_polygons_get_pycocotools_pixels(points: list[list[tuple[float, float]]]) -> None:
    """Polygons that cross themselves or others, have no area, or lie partly or wholly outside the RoI."""
    polygons = [np.array(polygon).ravel() for polygon in points]
    box, one = torch.tensor([[0.0, 0, 60, 60]]), torch.tensor([0])
    expected = bitmap_of(polygons, 60, 60).float()
    for way in ("polygons", "coverage"):
        masks = InstanceMasks.of([polygons], 60, 60, way)
        assert masks.targets(box, one, 60)[0].equal(expected)


# ---- exact at the RoI


HARD: dict[str, Polygons | bytes] = {
    "one pixel": [np.array([10.0, 12, 11, 12, 11, 13, 10, 13])],
    "less than a pixel": [np.array([10.1, 12.1, 10.3, 12.1, 10.3, 12.3])],
    "a line": [np.array([5.0, 5, 20, 5, 5, 5])],
    "two polygons that overlap": [
        np.array([2.0, 2, 15, 2, 15, 15, 2, 15]),
        np.array([8.0, 8, 22, 8, 22, 24, 8, 24]),
    ],
    "two polygons apart": [
        np.array([1.0, 1, 6, 1, 6, 6, 1, 6]),
        np.array([20.0, 20, 27, 20, 27, 27, 20, 27]),
    ],
    "along the border": [np.array([0.0, 0, 28, 0, 28, 28, 0, 28])],
    "partly outside": [np.array([-8.0, -5, 12, -5, 12, 40, -8, 40])],
    "outside": [np.array([-8.0, -5, -2, -5, -2, -1])],
    "a figure of eight": [np.array([2.0, 2, 20, 20, 20, 2, 2, 20])],
    "run lengths": coco_mask.encode(np.asfortranarray(np.eye(28, 33, 3, dtype=np.uint8)))["counts"],
    "run lengths of one pixel": coco_mask.encode(
        np.asfortranarray(np.pad(np.ones((1, 1), np.uint8), ((27, 0), (0, 32))))
    )["counts"],
    "full run lengths": coco_mask.encode(np.asfortranarray(np.ones((28, 33), np.uint8)))["counts"],
    "empty run lengths": coco_mask.encode(np.asfortranarray(np.zeros((28, 33), np.uint8)))["counts"],
}


def hard_bitmaps() -> Tensor:
    """Bitmaps (n, 28, 33) of the hard cases."""
    return torch.stack(
        [
            torch.from_numpy(coco_mask.decode({"size": [28, 33], "counts": shape}))
            if isinstance(shape, bytes)
            else bitmap_of(shape, 28, 33)
            for shape in HARD.values()
        ]
    )


@pytest.mark.parametrize("way", ["coverage", "polygons", "bitmaps", "bitmaps_mmdet_v1"])
@pytest.mark.parametrize("flip", [False, True])
def test_every_way_gives_the_annotated_pixels_at_scale_one(way: MaskTargets, flip: bool) -> None:
    """A RoI whose cells are pixels, in an image with all hard cases, as polygons and as run lengths."""
    masks = InstanceMasks.of(list(HARD.values()), 28, 33, way)
    expected = hard_bitmaps()
    if flip:
        masks, expected = masks.flipped(), expected.flip(-1)
    boxes = torch.tensor([[0.0, 0, 28, 28]]).expand(len(masks), 4)
    found = masks.targets(boxes, torch.arange(len(masks)), SIDE)
    different = (found != expected[:, :, :28]).flatten(1).sum(1)
    if flip and way == "polygons":
        # pycocotools rounds a coordinate on the border of two pixels, which a mirror image exchanges
        assert different.max() <= SIDE
    else:
        assert different.tolist() == [0] * len(HARD), dict(zip(HARD, different.tolist(), strict=True))


@pytest.mark.parametrize("flip", [False, True])
def test_coverage_is_the_area_of_the_annotated_pixels_in_each_cell(flip: bool) -> None:
    """Compared with counting 64 x 64 points per cell, for boxes between pixels and beyond the image."""
    masks = InstanceMasks.of(list(HARD.values()), 28, 33).resized(45, 71)
    masks = masks.flipped() if flip else masks
    bitmaps = hard_bitmaps().flip(-1) if flip else hard_bitmaps()
    boxes = torch.tensor([[3.3, 2.9, 60.1, 41.7], [-9.5, 20.2, 30.0, 55.5], [20.1, 21.3, 24.9, 22.2]])
    points = (torch.arange(7 * 64) + 0.5) / (7 * 64)
    for box in boxes:
        x1, y1, x2, y2 = box.tolist()
        x, y = (x1 + (x2 - x1) * points) * 33 / 71, (y1 + (y2 - y1) * points) * 28 / 45
        grid = torch.stack(torch.meshgrid(x / 33 * 2 - 1, y / 28 * 2 - 1, indexing="xy"), dim=-1)
        grid = grid.expand(len(masks), -1, -1, -1)
        seen = F.grid_sample(bitmaps[:, None].float(), grid, mode="nearest", align_corners=False)
        expected = F.avg_pool2d(seen, 64)[:, 0]
        found = masks.targets(box.expand(len(masks), 4), torch.arange(len(masks)), 7)
        torch.testing.assert_close(found, expected, atol=0.04, rtol=0)
        torch.testing.assert_close(found.mean((1, 2)), expected.mean((1, 2)), atol=0.01, rtol=0)


def test_mirrored_images_have_mirrored_targets() -> None:
    for polygons, size, edge, _, (boxes, matched) in cases(images=6, rois=8):
        plain, _ = augmented(InstanceMasks.of(polygons, *size), boxes, edge, False)
        boxes = torch.minimum(boxes, torch.tensor([plain.size[1], plain.size[0]] * 2))
        width = plain.size[1]
        mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        targets = plain.targets(boxes, matched, SIDE)
        found = plain.flipped().targets(mirrored, matched, SIDE).flip(-1)
        torch.testing.assert_close(found, targets, atol=1e-3, rtol=0)
        assert plain.flipped().flipped().targets(boxes, matched, SIDE).equal(targets)


@pytest.mark.parametrize("way", ["coverage", "polygons", "bitmaps", "bitmaps_mmdet_v1"])
def test_mixed_precision_changes_nothing(way: MaskTargets) -> None:
    polygons, boxes, size = real_objects()[0]
    masks, matched = InstanceMasks.of(polygons, *size, way), torch.arange(len(boxes))
    with torch.autocast("cpu", torch.bfloat16):
        found = masks.targets(boxes, matched, SIDE)
    assert found.equal(masks.targets(boxes, matched, SIDE))


# ---- quality

# What targets lose: the 977 real objects' 28 x 28 targets, made in images of 800 pixels, are pasted back into
# their boxes. Mean over the IoU thresholds 0.50 to 0.95 of the share of objects that reach them: all, small
QUALITY = {
    "coverage": (98.08, 98.40),
    "polygons": (93.51, 93.46),
    "bitmaps": (90.24, 88.25),
    "bitmaps_mmdet_v1": (76.56, 66.77),
}


@pytest.mark.parametrize("way", QUALITY)
def test_pasted_targets_are_the_object_again(way: MaskTargets) -> None:
    overlaps, small = [], []
    for polygons, boxes, size in real_objects():
        masks, enlarged = augmented(InstanceMasks.of(polygons, *size, way), boxes, 800, False)
        targets = masks.targets(enlarged, torch.arange(len(boxes)), SIDE)
        rles = paste_masks(targets, boxes, size, 0.5).rles
        truth = [
            coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in item], *size))
            for item in polygons
        ]
        overlaps += np.diag(coco_mask.iou(rles, truth, [0] * len(truth))).tolist()
        small += (coco_mask.area(truth) < 32**2).tolist()
    assert len(overlaps) == 977
    reached = np.array(overlaps)[:, None] >= np.arange(50, 100, 5) / 100
    found = 100 * reached.mean(), 100 * reached[np.array(small)].mean()
    assert found == pytest.approx(QUALITY[way], abs=0.3)
    if way == "coverage":
        assert min(found) >= 97


# ---- memory


class _Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("way", ["coverage", "polygons", "bitmaps", "bitmaps_mmdet_v1"])
def test_memory_is_bounded_whatever_the_number_of_objects_and_the_size_of_the_image(
    way: MaskTargets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 RoIs of 300 objects: bitmaps of the image would have 320 million elements."""
    polygons, boxes, size = max(real_objects(), key=lambda item: len(item[0]))
    copies = -(-300 // len(polygons))
    masks = InstanceMasks.of(polygons * copies, *size, way)
    assert len(masks) >= 300
    masks, boxes = augmented(masks, boxes.repeat(copies, 1), 800, False)
    assert sum(part.numel() for part in (masks.vertices, masks.runs)) < 500 * len(masks)
    torch.manual_seed(0)
    rois, matched = proposals(boxes, 128, masks.size)
    with _Largest() as largest:
        whole = masks.targets(rois, matched, SIDE)
    assert largest.numbers < 3 * module.AT_ONCE
    monkeypatch.setattr(module, "AT_ONCE", 2**12)
    with _Largest() as smaller:
        again = masks.targets(rois, matched, SIDE)
    assert smaller.numbers < largest.numbers
    torch.testing.assert_close(again, whole)


# ---- the data


def test_objects_can_be_chosen() -> None:
    masks = InstanceMasks.of(list(HARD.values()), 28, 33, "polygons")
    boxes = torch.tensor([[3.0, 0, 31, 28]]).expand(len(masks), 4)
    targets = masks.targets(boxes, torch.arange(len(masks)), SIDE)
    some = torch.tensor([11, 3, 3, 0, 9])
    for index in (some, torch.arange(len(masks)) % 2 == 0, slice(2, 7), slice(0, 0)):
        chosen = masks[index]
        expected = targets[index]
        assert len(chosen) == len(expected)
        found = chosen.targets(boxes[: len(chosen)], torch.arange(len(chosen)), SIDE)
        assert found.equal(expected)
        assert chosen.flipped().resized(56, 66).size == (56, 66)


def test_no_rois_and_no_objects() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    for masks in (InstanceMasks.of([], 28, 33), InstanceMasks.of(list(HARD.values()), 28, 33)):
        assert masks.targets(torch.zeros(0, 4), nothing, SIDE).shape == (0, SIDE, SIDE)


@pytest.mark.parametrize("way", ["coverage", "polygons", "bitmaps", "bitmaps_mmdet_v1"])
def test_an_image_whose_objects_have_no_pixels(way: MaskTargets) -> None:
    masks = InstanceMasks.of([HARD["outside"], HARD["empty run lengths"]], 28, 33, way)
    boxes = torch.tensor([[2.0, 3, 20, 20], [5, 5, 9, 9]])
    assert not masks.targets(boxes, torch.tensor([0, 1]), SIDE).any()


def test_all_tensors_move() -> None:
    """The meta device stands for a GPU."""
    masks = InstanceMasks.of(list(HARD.values()), 28, 33, "polygons")
    moved = masks.to(torch.device("meta"))
    assert all(part.is_meta for part in (moved.vertices, moved.polygons, moved.runs, moved.objects))
    assert len(moved) == len(masks)


def test_masks_from_bitmaps_are_those_bitmaps() -> None:
    """Other tests make their ground truth from bitmaps."""
    bitmaps = hard_bitmaps()
    boxes = torch.tensor([[3.0, 0, 31, 28]]).expand(len(bitmaps), 4)
    found = instance_masks(bitmaps).targets(boxes, torch.arange(len(bitmaps)), SIDE)
    assert found.equal(bitmaps[:, :, 3:31].float())
