"""Mask targets at RoIs and pasting of masks, compared with torchvision, detectron2 and MMDetection."""

import importlib.util
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import roi_heads

from benchmark.annotations import annotation_rle, read_annotations
from benchmark.detectors.masks import paste_masks
from benchmark.images import InstanceMasks
from benchmark.images.dataset import resized
from benchmark.recipes.detector_settings import MaskTargets

from .loading import LONG_EDGE, SHORT_EDGE, TRUTH
from .measuring import alternately, median_ratio, result_of, table

SIDE = 28
ROIS = 128  # foreground RoIs of an image
DETECTIONS, SIZE = 300, (480, 640)
REPETITIONS = 5
TEXT = """\
## Masks

**Targets.** {rois} RoIs near the objects of each of {images} images of LVIS' `lvis_val_100.json`, {short}
pixels high, from the masks as they are loaded to {side} x {side} cells. CPU time of an image, one thread,
medians over {repetitions} passes in turns. On a GPU ours are made there; polygons of detectron2 and
MMDetection are cut out on the CPU, and MMDetection copies bitmaps to the GPU and their targets back.

{targets}
**Pasting.** {detections} masks of {side} x {side} probabilities into an image of {height} x {width} pixels,
in boxes of real objects, to compressed run lengths. All but ours make bitmaps of the whole image, transpose
them and have them coded by pycocotools. {equal} of {detections} codes are those of `grid_sample` into the
whole image, to the byte.

{pasting}"""


def real_images(count: int) -> list[tuple[list[Any], Tensor, tuple[int, int]]]:
    """Annotations, boxes (n, 4) xyxy and size of the first images with objects."""
    annotations = read_annotations(TRUTH)
    groups = annotations.annotations_by_image()
    found = []
    for image in annotations.images:
        if own := groups[image.id]:
            boxes = torch.tensor([item.bbox for item in own])
            boxes[:, 2:] += boxes[:, :2]
            found.append((own, boxes, (image.height, image.width)))
    return found[:count]


def rois_near(boxes: Tensor, new: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """RoIs (K, 4) like proposals for ``boxes`` in the image resized to ``new``, and their objects."""
    generator = torch.Generator().manual_seed(0)
    matched = torch.randint(len(boxes), (ROIS,), generator=generator)
    scale = torch.tensor([new[1] / size[1], new[0] / size[0]] * 2)
    rois = boxes[matched] * scale
    sides = (rois[:, 2:] - rois[:, :2]).repeat(1, 2)
    rois = rois + 0.1 * torch.randn(rois.shape, generator=generator) * sides
    limits = torch.tensor([new[1], new[0]]).float()
    first = torch.minimum(rois[:, :2].clamp(min=0), limits - 1)
    behind = torch.minimum(torch.maximum(rois[:, 2:], first + 1), limits)
    return torch.cat([first, behind], dim=1), matched


def makers(image: tuple[list[Any], Tensor, tuple[int, int]]) -> dict[str, Callable[[], object]]:
    """Functions that make the targets of an image from the ground truth that each framework loads."""
    own, boxes, size = image
    new = resized(*size, SHORT_EDGE, LONG_EDGE)
    rois, matched = rois_near(boxes, new, size)
    polygons = [[np.array(polygon) for polygon in item.shape()] for item in own]
    found: dict[str, Callable[[], object]] = {}
    for way in get_args(MaskTargets):
        masks = InstanceMasks.of(polygons, *size, way).resized(*new)
        found[f"ours, `{way}`"] = partial(masks.targets, rois, matched, SIDE)
    whole = torch.from_numpy(coco_mask.decode([annotation_rle(item, *size) for item in own]))
    bitmaps = F.interpolate(whole.permute(2, 0, 1)[None], size=new, mode="nearest")[0].contiguous()
    found["torchvision, bitmaps"] = lambda: roi_heads.project_masks_on_boxes(bitmaps, rois, matched, SIDE)
    scale = np.array([new[1] / size[1], new[0] / size[0]])
    scaled = [[(polygon.reshape(-1, 2) * scale).ravel() for polygon in item] for item in polygons]
    if importlib.util.find_spec("detectron2"):
        from detectron2.structures import PolygonMasks

        theirs = PolygonMasks(scaled)[matched]
        found["detectron2, polygons"] = lambda: theirs.crop_and_resize(rois, SIDE)
    if importlib.util.find_spec("mmdet"):
        from benchmark.detectors.mmcv_ops import provide_operators

        provide_operators()
        from mmdet.structures.mask import BitmapMasks
        from mmdet.structures.mask import PolygonMasks as Polygons

        forms = {"polygons": Polygons(scaled, *new), "bitmaps": BitmapMasks(bitmaps.numpy(), *new)}
        for name, form in forms.items():
            crop = partial(form.crop_and_resize, rois.numpy(), (SIDE, SIDE), matched.numpy())
            found[f"MMDetection, {name}"] = partial(_array, crop)
    return found


def _array(crop: Callable[[], Any]) -> np.ndarray:
    made: np.ndarray = crop().to_ndarray()
    return made


def targets() -> list[list[Any]]:
    """For every way its name, CPU milliseconds per image and the median ratio to the default."""
    torch.set_num_threads(1)
    images = [makers(image) for image in real_images(12)]

    def all_of(name: str) -> Callable[[], None]:
        def work() -> None:
            for image in images:
                image[name]()

        return work

    seconds = alternately(*map(all_of, images[0]), repetitions=REPETITIONS)
    return [
        [name, 1e3 * statistics.median(own) / len(images), median_ratio(own, seconds[0])]
        for name, own in zip(images[0], seconds, strict=True)
    ]


def detections() -> tuple[Tensor, Tensor]:
    """Probabilities (n, 28, 28) and boxes (n, 4), those of real objects, shifted into the image."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([own for _, own, _ in real_images(100)])
    boxes = boxes[torch.randint(len(boxes), (DETECTIONS,), generator=generator)]
    height, width = SIZE
    boxes = torch.minimum(boxes, torch.tensor([width - 4.0, height - 4, width, height]))
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    coarse = torch.randn(DETECTIONS, 1, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")[:, 0]
    return (3 * smooth + 1).sigmoid(), boxes


def coded(pasted: Tensor) -> list[dict[str, Any]]:
    """Run lengths of bitmaps (n, height, width)."""
    columns = np.asfortranarray(pasted.permute(1, 2, 0).numpy().astype(np.uint8))
    rles: list[dict[str, Any]] = coco_mask.encode(columns)
    return rles


def in_parts(paste: Callable[[Tensor, Tensor], Tensor]) -> list[dict[str, Any]]:
    """Process 32 masks at a time, which limits the memory of bitmaps."""
    masks, boxes = detections()
    pairs = zip(masks.split(32), boxes.split(32), strict=True)
    return [rle for own, box in pairs for rle in coded(paste(own, box))]


def with_torchvision() -> list[dict[str, Any]]:
    """Boxes cut to whole pixels, as in an early version of this project's torchvision back end."""
    return in_parts(lambda own, box: roi_heads.paste_masks_in_image(own[:, None], box, SIZE)[:, 0] >= 0.5)


def with_grid_sample() -> list[dict[str, Any]]:
    """Into the whole image, one mask after the other."""

    def paste(own: Tensor, box: Tensor) -> Tensor:
        x = (torch.arange(SIZE[1]) + 0.5 - box[:, :1]) / (box[:, 2:3] - box[:, :1]) * 2 - 1
        y = (torch.arange(SIZE[0]) + 0.5 - box[:, 1:2]) / (box[:, 3:] - box[:, 1:2]) * 2 - 1
        shape = (len(own), *SIZE)
        grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=3)
        return F.grid_sample(own[:, None], grid, align_corners=False)[:, 0] >= 0.5

    return in_parts(paste)


def with_detectron2() -> list[dict[str, Any]]:
    """detectron2's own, which on a CPU pastes around each box."""
    from detectron2.layers import paste_masks_in_image

    return in_parts(lambda own, box: paste_masks_in_image(own, box, SIZE, 0.5))


def pasting() -> dict[str, Any]:
    """CPU milliseconds per image of every way, the median ratio to ours, and the number of equal codes."""
    torch.set_num_threads(1)
    ways: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "ours": lambda: paste_masks(*detections(), SIZE, 0.5).rles,
        "torchvision": with_torchvision,
        "`grid_sample` into the whole image": with_grid_sample,
    }
    if importlib.util.find_spec("detectron2"):
        ways["detectron2"] = with_detectron2
    seconds = alternately(*ways.values(), repetitions=REPETITIONS)
    pairs = zip(ways["ours"](), with_grid_sample(), strict=True)
    return {
        "rows": [
            [name, 1e3 * statistics.median(own), median_ratio(own, seconds[0])]
            for name, own in zip(ways, seconds, strict=True)
        ],
        "equal": sum(own["counts"] == other["counts"] for own, other in pairs),
    }


def section() -> str:
    """The section as Markdown."""
    made, pasted = result_of("masks", "targets()"), result_of("masks", "pasting()")

    def rows(measured: list[list[Any]]) -> list[list[str]]:
        return [[name, f"{ms:.1f}", f"{ratio:.1f}"] for name, ms, ratio in measured]

    return TEXT.format(
        rois=ROIS,
        images=12,
        short=SHORT_EDGE,
        side=SIDE,
        repetitions=REPETITIONS,
        detections=DETECTIONS,
        height=SIZE[0],
        width=SIZE[1],
        equal=pasted["equal"],
        targets=table(["targets", "ms an image", "times `coverage`"], rows(made)),
        pasting=table(["pasting", "ms an image", "times ours"], rows(pasted["rows"])),
    )
