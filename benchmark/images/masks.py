"""Instance masks of an image as polygons and run lengths, and mask targets cropped from them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmark.annotations.run_lengths import decode_run_lengths
from benchmark.images import resampling
from benchmark.images.rasterising import pixels_inside, spread
from benchmark.images.resampling import Side
from benchmark.recipes.detector_settings import MaskTargets

AT_ONCE = 2**20  # elements of the largest intermediate arrays
SMALLEST = 0.1  # pixels; least side of a RoI, as in detectron2

Shape = Sequence[NDArray[np.float64]] | bytes
"""A segmentation: polygons, each (2 v,) x, y, x, y, ... in pixels, or COCO's compressed run-length code."""


@dataclass(frozen=True)
class InstanceMasks:
    """Segmentations of the n objects of an image, in pixels of the image, on one device; no bitmaps.

    An object is the union of polygons, or the runs of foreground in the columns of a bitmap that fills the
    image. ``way`` is how ``targets`` crops it to RoIs:

    - ``coverage``: the fraction of each cell of the RoI's grid that pixels of the object cover, in [0, 1].
    - ``polygons``: the cells that pycocotools counts to the polygons, as pixels, 0 or 1; as in detectron2
      (``rasterize_polygons_within_box`` in detectron2/structures/masks.py; BALMS) and in MMDetection 2
      (``PolygonMasks.crop_and_resize`` in mmdet/core/mask/structures.py; GOL's own models). Neither takes
      run lengths there: here they give 1 where at least half of a cell is covered.
    - ``bitmaps``: the bitmap, resized with its image to the nearest pixel, cropped by RoIAlign, 1 from 0.5
      on; as in MMDetection 2 (``BitmapMasks.crop_and_resize`` in the same file; GOL's activation models).
    - ``bitmaps_mmdet_v1``: the whole pixels in the RoI of the bitmap so resized, made smaller or larger as
      uint8 0 and 1 by OpenCV; as in MMDetection 1 (``mask_target_single`` in
      mmdet/core/mask/mask_target.py; BAGS, SimCal).

    Except with ``polygons``, an object consists of the pixels of the annotated image that pycocotools counts
    to it.

    Attributes:
        vertices: (V, 2) float64 x, y of the vertices of all polygons, one polygon after the other.
        polygons: (P + 1,) int64, first vertex of each polygon, object after object, and V.
        runs: (R, 3) int64: column, first row and row after the last, object by object; runs of an object do
            not overlap.
        objects: (n + 1, 2) int64, first polygon and first run of each object, and P and R.
        size: height and width of the image in pixels.
        bitmap: height and width of the bitmap in pixels.
        mirrored: whether the image is the bitmap mirrored.
        way: of the four.
    """

    vertices: Tensor
    polygons: Tensor
    runs: Tensor
    objects: Tensor
    size: tuple[int, int]
    bitmap: tuple[int, int]
    mirrored: bool
    way: MaskTargets

    @classmethod
    def of(
        cls, shapes: Sequence[Shape], height: int, width: int, way: MaskTargets = "coverage"
    ) -> "InstanceMasks":
        """Masks from checked annotations of an image of ``height`` x ``width`` pixels.

        They must have passed ``benchmark.annotations.reading.shape_defects``, because pycocotools does not
        check its input.
        """
        polygons: list[NDArray[np.float64]] = []
        codes, counts = [], np.zeros((len(shapes) + 1, 2), np.int64)
        for number, shape in enumerate(shapes, start=1):
            if isinstance(shape, bytes):
                codes.append(shape)
            elif way == "polygons":
                polygons += shape
                counts[number, 0] = len(shape)
                continue
            else:
                codes.append(coco_mask.merge(coco_mask.frPyObjects(list(shape), height, width))["counts"])
            counts[number, 1] = 1
        runs, numbers = _runs_of(codes, height)
        counts[counts[:, 1] > 0, 1] = numbers
        vertices = np.concatenate([np.zeros(0), *polygons]).reshape(-1, 2)
        lengths = [0, *(len(polygon) // 2 for polygon in polygons)]
        return cls(
            vertices=torch.from_numpy(vertices),
            polygons=torch.tensor(lengths).cumsum(0),
            runs=torch.from_numpy(runs),
            objects=torch.from_numpy(counts.cumsum(axis=0)),
            size=(height, width),
            bitmap=(height, width),
            mirrored=False,
            way=way,
        )

    def __len__(self) -> int:
        return len(self.objects) - 1

    def __getitem__(self, index: Tensor | slice) -> "InstanceMasks":
        """The objects of ``index``: numbers (m,) int64, a mask (n,) bool, or a slice."""
        number = torch.arange(len(self), device=self.objects.device)[index]
        first, behind = self.objects[number], self.objects[number + 1]
        _, polygon = spread(first[:, 0], behind[:, 0])
        _, vertex = spread(self.polygons[polygon], self.polygons[polygon + 1])
        _, run = spread(first[:, 1], behind[:, 1])
        return replace(
            self,
            vertices=self.vertices[vertex],
            polygons=F.pad(self.polygons.diff()[polygon].cumsum(0), (1, 0)),
            runs=self.runs[run],
            objects=F.pad((behind - first).cumsum(0), (0, 0, 1, 0)),
        )

    def __getstate__(self) -> dict[str, Any]:
        # between processes: a tensor would take shared memory and an open file each
        return {name: part.numpy() if isinstance(part, Tensor) else part for name, part in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, part in state.items():
            value = torch.from_numpy(part) if isinstance(part, np.ndarray) else part
            object.__setattr__(self, name, value)  # the class is frozen

    def map(self, change: Callable[[Tensor], Tensor]) -> "InstanceMasks":
        """The masks with a function applied to each tensor."""
        return replace(
            self,
            vertices=change(self.vertices),
            polygons=change(self.polygons),
            runs=change(self.runs),
            objects=change(self.objects),
        )

    def to(self, device: torch.device) -> "InstanceMasks":
        """The masks on another device; copies from pinned memory are asynchronous."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "InstanceMasks":
        """The masks in pinned memory."""
        return self.map(Tensor.pin_memory)

    def resized(self, height: int, width: int) -> "InstanceMasks":
        """The masks of the image resized to ``height`` x ``width`` pixels."""
        factors = self.vertices.new_tensor([width / self.size[1], height / self.size[0]])
        return replace(self, vertices=self.vertices * factors, size=(height, width))

    def flipped(self) -> "InstanceMasks":
        """The masks of the image mirrored from left to right."""
        x, y = self.vertices.unbind(1)
        vertices = torch.stack([self.size[1] - x, y], dim=1)
        return replace(self, vertices=vertices, mirrored=not self.mirrored)

    def targets(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        """Mask targets (K, side, side) float32 in [0, 1], on the device of the masks.

        RoIs are sampled in the training step, so loading processes cannot compute this. On a GPU only counts
        are copied to the CPU; an LVIS image with 128 RoIs takes 150 to 550 small operations.

        Args:
            boxes: (K, 4) xyxy of RoIs in pixels of the image; they end after their last pixel, even with
                ``coordinates: mmdet_v1``.
            matched: (K,) int64, the object of each.
            side: cells along each side of a target.
        """
        ways = {
            "coverage": self._covered,
            "polygons": self._inside,
            "bitmaps": self._aligned,
            "bitmaps_mmdet_v1": self._stretched,
        }
        targets = boxes.new_empty(len(boxes), side, side)
        with torch.autocast(boxes.device.type, enabled=False):  # bfloat16 cannot represent pixel coordinates
            for part in self._parts(matched, side):
                targets[part] = ways[self.way](boxes[part], matched[part], side)
        return targets

    def _parts(self, matched: Tensor, side: int) -> Iterator[Tensor]:
        """Numbers of RoIs that are processed together, in bounded memory, with objects of similar sizes."""
        vertices = self.polygons[self.objects[:, 0]].diff()
        polygons, runs = self.objects.diff(dim=0).unbind(1)
        pixels = max(self.bitmap) if self.way == "bitmaps" else 0  # of one side, which have a weight each
        cost, order = (polygons * side**2 + (vertices + runs + pixels) * side)[matched].sort()
        first = 0
        for number, own in enumerate(cost.tolist()):
            if own * (number + 1 - first) > AT_ONCE and number > first:
                yield order[first:number]
                first = number
        if len(order):
            yield order[first:]

    def _inside(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        pixels = boxes.new_zeros(len(boxes), side, side)
        if len(self.vertices):
            roi, polygon = spread(self.objects[matched, 0], self.objects[matched + 1, 0])
            owner, vertex = spread(self.polygons[polygon], self.polygons[polygon + 1])
            following = torch.arange(1, len(self.vertices) + 1, device=vertex.device)
            following[self.polygons[1:] - 1] = self.polygons[:-1]
            # in detectron2 boxes are float32 and polygons float64
            corner = boxes[:, :2]
            scale = side / (boxes[:, 2:] - corner).clamp(min=SMALLEST)
            start, end = (
                (self.vertices[ends] - corner[roi[owner]]) * scale[roi[owner]]
                for ends in (vertex, following[vertex])
            )
            pixels.index_add_(0, roi, pixels_inside(start, end, owner, len(roi), side).to(pixels))
        if len(self.runs):
            pixels += self._covered(boxes, matched, side) >= 0.5
        return pixels.clamp(max=1)

    def _covered(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + SMALLEST)], dim=1)
        rows, columns = (resampling.covered(along, side) for along in self._sides(boxes, matched))
        return (rows @ columns.transpose(1, 2)).clamp(0, 1)

    def _aligned(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        height, width = self.size
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
        rows, columns = (resampling.aligned(along, side) for along in self._sides(boxes, matched))
        return (rows @ columns.transpose(1, 2) >= 0.5).to(boxes)

    def _stretched(self, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
        rows, columns = self._sides(boxes, matched)
        (above, heights), (left, widths) = (resampling.stretched(along, side) for along in (rows, columns))
        mixed = (left * widths[..., None]).sum(2)
        sums = (above.flatten(1, 2) @ mixed.transpose(1, 2)).view(len(boxes), side, 2, side)
        # bits that OpenCV's uint8 arithmetic drops in between
        parts = (heights[..., None] * (sums / 2**4).floor() / 2**16).floor()
        return ((parts.sum(2) + 2) / 2**2).floor()

    def _sides(self, boxes: Tensor, matched: Tensor) -> tuple[Side, Side]:
        """Rows and columns of RoIs, and the runs of their objects as spans in them; the last may be empty."""
        first, behind = self.objects[matched, 1], self.objects[matched + 1, 1]
        most = int((behind - first).max())
        place = first[:, None] + torch.arange(most, device=first.device)
        used = place < behind[:, None]
        column, top, bottom = self.runs[torch.where(used, place, 0)].unbind(2)
        x1, y1, x2, y2 = boxes.unbind(1)
        rows = Side(y1, y2, top, torch.where(used, bottom, top), self.size[0], self.bitmap[0])
        columns = Side(x1, x2, column, column + 1, self.size[1], self.bitmap[1], self.mirrored)
        return rows, columns


def _runs_of(codes: list[bytes], height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs (R, 3) of all codes of bitmaps with ``height`` rows, and the number of runs of each code, (M,)."""
    characters = np.frombuffer(b"".join(codes), np.uint8)
    lengths, numbers, _ = decode_run_lengths(characters, np.array([len(code) for code in codes], np.int64))
    code = np.repeat(np.arange(len(codes)), numbers)
    heads = np.cumsum(numbers) - numbers
    end = lengths.cumsum()
    end -= np.append(0, end)[heads][code]
    foreground = ((np.arange(len(lengths)) - heads[code]) % 2 == 1) & (lengths > 0)
    code, end, lengths = code[foreground], end[foreground], lengths[foreground]
    start = end - lengths
    # column by column
    first = start // height
    columns = (end - 1) // height - first + 1
    number = np.repeat(np.arange(len(columns)), columns)
    column = first[number] + np.arange(len(number)) - np.repeat(np.cumsum(columns) - columns, columns)
    top = np.maximum(start[number] - column * height, 0)
    bottom = np.minimum(end[number] - column * height, height)
    return np.stack([column, top, bottom], axis=1), np.bincount(code[number], minlength=len(codes))
