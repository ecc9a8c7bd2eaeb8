"""Anchors, box deltas and suppression equal those of the frameworks that the settings name."""

import pytest
import torch
from tiny_detectors import BACKENDS
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from benchmark.detectors.boxes import anchors_of, clipped, decode, encode, padded, suppressed, usable

SIZES = [32, 64, 128, 256, 512]
CANVAS = (128, 224)
GRIDS = [(32, 56), (16, 28), (8, 14), (4, 7), (2, 4)]
needs_mmdet = pytest.mark.skipif("mmdet" not in BACKENDS, reason="back end 'mmdet' is not installed")
needs_detectron2 = pytest.mark.skipif(
    "detectron2" not in BACKENDS, reason="back end 'detectron2' is not installed"
)


def ours(coordinates: str) -> list[Tensor]:
    return anchors_of(SIZES, GRIDS, CANVAS, coordinates, torch.device("cpu"))


def some_boxes(count: int, largest: float = 100) -> Tensor:
    corners = torch.rand(count, 2) * largest
    return torch.cat([corners, corners + 2 + torch.rand(count, 2) * largest / 2], dim=1)


def test_anchors_of_torchvision() -> None:
    """The coarsest level has strides of 64 and 56 in this image."""
    generator = AnchorGenerator(tuple((size,) for size in SIZES), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, *CANVAS), [CANVAS])
    (expected,) = generator(images, [torch.zeros(1, 1, *grid) for grid in GRIDS])
    assert torch.cat(ours("torchvision")).equal(expected)


@needs_mmdet
def test_anchors_of_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.models.task_modules.prior_generators import AnchorGenerator as Theirs

    strides = [4, 8, 16, 32, 64]
    generator = Theirs(strides, [0.5, 1.0, 2.0], scales=[8])
    expected = generator.grid_priors(GRIDS, device="cpu")
    for own, other in zip(ours("aligned"), expected, strict=True):
        torch.testing.assert_close(own, other)


@needs_detectron2
def test_anchors_of_detectron2() -> None:
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

    generator = DefaultAnchorGenerator(
        sizes=[[size] for size in SIZES],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[4, 8, 16, 32, 64],
        offset=0.0,
    )
    expected = generator([torch.zeros(1, 1, *grid) for grid in GRIDS])
    for own, other in zip(ours("aligned"), expected, strict=True):
        torch.testing.assert_close(own, other.tensor, atol=1e-4, rtol=1e-6)


def test_anchors_of_mmdetection_1_include_whole_pixels() -> None:
    """Around the middle of the first cell, (1.5, 1.5) in pixels: 32 x 32 are -14 to 17, both included."""
    first = ours("mmdet_v1")[0]
    assert first[1].tolist() == [-14, -14, 18, 18]
    assert (first == first.round()).all()
    assert first[3 + 1].tolist() == [-10, -14, 22, 18]


def test_anchors_that_may_learn() -> None:
    """Of an image of 90 x 150, padded to 96 x 160, in a batch of 128 x 224."""
    anchors = ours("aligned")
    assert usable(anchors, GRIDS, (90, 150), "all") is None
    unpadded, inside = (usable(anchors, GRIDS, (90, 150), how) for how in ("unpadded", "inside"))
    assert unpadded is not None
    assert inside is not None
    first = unpadded[: 32 * 56 * 3].view(32, 56, 3)
    assert first[:24, :40].all()
    assert not first[24:].any()
    assert not first[:, 40:].any()
    boxes = torch.cat(anchors)
    within = (boxes >= 0).all(dim=1) & (boxes[:, 2] <= 150) & (boxes[:, 3] <= 90)
    assert inside.equal(unpadded & within)
    assert 0 < inside.sum() < unpadded.sum()
    assert padded((90, 150)) == (96, 160)


@needs_mmdet
def test_anchors_that_may_learn_in_mmdetection() -> None:
    from benchmark.detectors.mmcv_ops import provide_operators

    provide_operators()
    from mmdet.models.task_modules.prior_generators import AnchorGenerator as Theirs
    from mmdet.models.task_modules.prior_generators import anchor_inside_flags

    generator = Theirs([4, 8, 16, 32, 64], [0.5, 1.0, 2.0], scales=[8])
    valid = torch.cat(generator.valid_flags(GRIDS, (96, 160), "cpu"))
    boxes = torch.cat(generator.grid_priors(GRIDS, device="cpu"))
    for how, border in (("unpadded", -1), ("inside", 0)):
        expected = anchor_inside_flags(boxes, valid, (90, 150), border)
        found = usable(ours("aligned"), GRIDS, (90, 150), how)
        assert found is not None
        assert found.equal(expected)


def test_deltas_come_back_and_are_those_of_torchvision() -> None:
    torch.manual_seed(0)
    boxes, truth, stds = some_boxes(50), some_boxes(50), (0.1, 0.1, 0.2, 0.2)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = encode(boxes, truth, stds)
    torch.testing.assert_close(deltas, coder.encode_single(truth, boxes), rtol=1e-5, atol=1e-5)
    back = decode(boxes, deltas[:, None], stds, "mmdet")[:, 0]
    torch.testing.assert_close(back, truth, rtol=1e-4, atol=1e-3)
    several = torch.randn(50, 3, 4)
    expected = coder.decode_single(several.flatten(1), boxes).view(50, 3, 4)
    torch.testing.assert_close(decode(boxes, several, stds, "torchvision"), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("framework", "least"), [("mmdet", 0.256), ("mmdet_v1", 0.256), ("detectron2", 0.0)])
def test_no_box_explodes_and_those_of_mmdetection_do_not_vanish(framework: str, least: float) -> None:
    box = torch.tensor([[0.0, 0, 16, 16]])
    deltas = torch.tensor([[[0.0, 0, 100, -100]]])
    grown = decode(box, deltas, (1.0, 1.0, 1.0, 1.0), framework)[0, 0]
    assert (grown[2] - grown[0]).item() == pytest.approx(1000)
    assert (grown[3] - grown[1]).item() == pytest.approx(least)


def test_mmdetection_1_clips_to_pixels() -> None:
    boxes = torch.tensor([[-5.0, -5, -1, -1], [60, 2, 70, 9], [3, 3, 9, 9]])
    assert clipped(boxes, (50, 60), "aligned").tolist() == [[0, 0, 0, 0], [60, 2, 60, 9], [3, 3, 9, 9]]
    assert clipped(boxes, (50, 60), "mmdet_v1").tolist() == [[0, 0, 1, 1], [59, 2, 60, 9], [3, 3, 9, 9]]


@pytest.mark.parametrize("most", [1, 10, 300])
def test_suppression_is_that_of_each_group(most: int) -> None:
    """Although only the best candidates are considered first; equal scores keep the order of the boxes."""
    torch.manual_seed(0)
    boxes, groups = some_boxes(3000, 1000), torch.randint(1200, (3000,)) % 7
    scores = torch.rand(3000)
    found = suppressed(boxes, scores, groups, 0.5, most)
    assert found.equal(batched_nms(boxes, scores, groups, 0.5)[:most])
    same = suppressed(boxes, torch.ones(3000), groups, 0.5, most)
    assert same[0] == 0
    assert len(suppressed(boxes[:0], scores[:0], groups[:0], 0.5, most)) == 0


def test_groups_far_apart_keep_their_overlaps() -> None:
    """A thousand groups on images of a thousand pixels: float32 would round boxes to an eighth of a pixel."""
    for overlap, kept in ((0.499, 2), (0.501, 1)):
        pair = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10 * overlap]])
        boxes = torch.cat([pair.repeat(1200, 1), torch.tensor([[0.0, 0, 1333, 1333]])])
        groups = torch.cat([torch.arange(1200).repeat_interleave(2), torch.tensor([1200])])
        scores = torch.linspace(1, 0.5, len(boxes))
        assert len(suppressed(boxes, scores, groups, 0.5, 5000)) == 1200 * kept + 1
