"""Masks for all back ends: targets of mask heads, and predicted masks pasted into the image."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmark.annotations.run_lengths import encode_run_lengths
from benchmark.detectors.boxes import Size
from benchmark.images import Target
from benchmark.recipes.detector_settings import Pasting

# Of pasted masks, so that they stay in a processor's cache; a GPU takes more: each part is a wait for it
PIXELS_AT_ONCE, PIXELS_ON_GPU = 2**18, 2**24


def mask_targets(target: Target, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Mask targets (K, side, side) float32 in [0, 1], as selected by the setting ``mask_targets``.

    Args:
        target: ground truth of an image, with masks.
        boxes: (K, 4) xyxy of foreground RoIs in pixels of the image.
        matched: (K,) int64, the object of each RoI.
        side: cells along each side of a target.
    """
    assert target.masks is not None
    return target.masks.targets(boxes, matched, side)


@dataclass(frozen=True, eq=False)
class PastedMasks:
    """The masks of an image's detections.

    ``owners``, ``places`` int64 (P,): masks, and positions counted down the columns of the image, at which
    runs of foreground pixels begin and end; ``count`` masks of ``size``, height and width; ``numbers`` int64
    (n,): the mask of each detection.
    """

    owners: NDArray[np.int64]
    places: NDArray[np.int64]
    count: int
    size: Size
    numbers: NDArray[np.int64]

    @cached_property
    def rles(self) -> list[dict[str, Any]]:
        """Compressed COCO RLE of each detection, ``{"size": [height, width], "counts": bytes}``. Coding needs
        no GPU: the first thread that reads this does it."""
        stop = self.size[0] * self.size[1]
        keys, times = np.unique(self.owners * (stop + 1) + self.places, return_counts=True)
        # a run that reaches the bottom of a column continues at the top of the next; the last run ends with
        # the image
        changes = keys[(times == 1) & (keys % (stop + 1) < stop)]
        ends = np.arange(self.count) * (stop + 1) + stop
        owner, place = np.divmod(np.sort(np.concatenate([changes, ends])), stop + 1)
        numbers = np.bincount(owner, minlength=self.count)
        runs = np.diff(place, prepend=0)
        heads = (np.cumsum(numbers) - numbers)[: self.count]
        runs[heads] = place[heads]
        codes = encode_run_lengths(runs, numbers)
        return [{"size": list(self.size), "counts": codes[number]} for number in self.numbers.tolist()]


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    size: Size,
    threshold: float,
    pasting: Pasting = "grid",
    numbers: Tensor | None = None,
) -> PastedMasks:
    """Masks of an image from the probabilities in their boxes.

    A pixel is foreground if the probability at its centre reaches the threshold. The box is divided into
    cells, and a probability belongs to the centre of its cell; between centres it is interpolated bilinearly,
    and it falls to 0 over half a cell outside the box. detectron2 (layers/mask_ops.py) and MMDetection 2 and
    later (fcn_mask_head.py) do the same with ``grid_sample``. MMDetection 1 (``get_seg_masks`` in the same
    file) rounds the box to whole pixels and pastes nothing outside it; the probabilities of the outermost
    cells extend to its border. Only pixels near the box are computed here, column by column as in RLE.

    Args:
        probabilities: (m, M, M) float, in [0, 1].
        boxes: (m, 4) float32 xyxy in pixels of the image; they may extend beyond it.
        size: height and width of the image.
        threshold: above 0.
        pasting: ``mask_pasting`` of the settings.
        numbers: (n,) int64, the mask of each detection; None if each has its own, in the same order.
    """
    height, width = size
    cells, fading = probabilities.shape[-1], pasting == "grid"
    if not fading:
        boxes = _in_whole_pixels(boxes)
    margin = 1 / (2 * cells) if fading else 0.0
    left, right = _spans(boxes[:, 0], boxes[:, 2], margin, width)
    top, bottom = _spans(boxes[:, 1], boxes[:, 3], margin, height)
    owners, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part, wide, high in _parts(right - left, bottom - top):
        columns = _weights(boxes[part, 0], boxes[part, 2], left[part], right[part], wide, cells, fading)
        rows = _weights(boxes[part, 1], boxes[part, 3], top[part], bottom[part], high, cells, fading)
        with torch.autocast(boxes.device.type, enabled=False):
            pasted = columns @ probabilities[part].float().transpose(1, 2) @ rows.transpose(1, 2)
        inside = F.pad(pasted >= threshold, (1, 1))
        # where a run begins, or the one behind it
        number, column, row = (inside[..., 1:] != inside[..., :-1]).nonzero().unbind(1)
        owner = part[number]
        ends = torch.stack([owner, (left[owner] + column) * height + top[owner] + row]).cpu().numpy()
        owners.append(ends[0])
        places.append(ends[1])
    own = np.arange(len(boxes)) if numbers is None else numbers.cpu().numpy()
    return PastedMasks(np.concatenate(owners), np.concatenate(places), len(boxes), size, own)


def _in_whole_pixels(boxes: Tensor) -> Tensor:
    """Boxes with corners rounded down, including that of the last pixel; at least one pixel."""
    first = boxes[:, :2].floor()
    return torch.cat([first, torch.maximum((boxes[:, 2:] - 1).floor(), first) + 1], dim=1)


def _spans(begin: Tensor, end: Tensor, margin: float, length: int) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last, (n,) int64, whose centres are in a box or its margin, a
    fraction of its side."""
    around = (end - begin) * margin
    first = (begin - around - 0.5).ceil().clamp(0, length).long()
    behind = (end + around + 0.5).floor().clamp(0, length).long()
    return first, torch.maximum(first, behind)


def _parts(widths: Tensor, heights: Tensor) -> Iterator[tuple[Tensor, int, int]]:
    """Numbers of masks that are pasted together, and the largest width and height of them, to which all are
    padded. Memory is bounded, and sizes are similar."""
    most = PIXELS_AT_ONCE if widths.device.type == "cpu" else PIXELS_ON_GPU
    order = (widths * heights).argsort()
    sizes = torch.stack([widths, heights], dim=1)[order].tolist()
    first = most_wide = most_high = 0
    for number, (wide, high) in enumerate(sizes):
        larger = max(most_wide, wide), max(most_high, high)
        if larger[0] * larger[1] * (number + 1 - first) > most and number > first:
            yield order[first:number], most_wide, most_high
            first, larger = number, (wide, high)
        most_wide, most_high = larger
    if sizes:
        yield order[first:], most_wide, most_high


def _weights(
    begin: Tensor, end: Tensor, first: Tensor, behind: Tensor, pixels: int, cells: int, fading: bool
) -> Tensor:
    """Weights (n, pixels, cells) of bilinear interpolation from ``first`` to before ``behind``, else 0.

    Outside the centres of the outermost cells the values fall to 0 or stay constant.
    """
    pixel = first[:, None] + torch.arange(pixels, device=first.device)
    place = (pixel + 0.5 - begin[:, None]) / (end - begin)[:, None] * cells - 0.5
    if not fading:
        place = place.clamp(0, cells - 1)
    place = torch.where(pixel < behind[:, None], place, -1.0)
    return (1 - (place[..., None] - torch.arange(cells, device=first.device)).abs()).clamp(min=0)
