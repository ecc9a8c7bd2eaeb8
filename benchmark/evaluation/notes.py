"""Sentences on how to read the numbers of an evaluation, and signs that its input is in another format."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmark.annotations import frequency_letter
from benchmark.evaluation.ground_truth import GroundTruth
from benchmark.evaluation.metrics import CAP_WORDS, PROTOCOL_DETECTIONS, Caps, Metric
from benchmark.statistics import ClassStatistics

ODD = 0.05
"""Fraction of the boxes from which an oddity is reported."""

MANY = 20
"""Least number of boxes for a statement about the positions of all boxes."""

_SLACK = 2.0  # pixels by which rounding may move a box out of its image
_FORM = "Boxes are read as x, y, width, height in pixels of the original image."


def area_notes(truth: GroundTruth) -> list[str]:
    """The number of areas that are not from the file."""
    count = int(truth.measured.sum())
    if count == 0:
        return []
    return [
        f"{count:,} of {len(truth.ids):,} annotations have no area: that of their polygons, of their run "
        "lengths, or else of their box counts."
    ]


def letter_notes(truth: GroundTruth, table: ClassStatistics, path: Path) -> list[str]:
    """Differences of the training letters from those of the ground truth, or from the training counts.

    ``table`` has the categories of ``truth``; ``path`` is its file.
    """
    counted = [frequency_letter(int(count)) for count in table.image_counts]
    notes = []
    for others, words in (
        (truth.frequencies.tolist(), f"Frequency groups are those of {path}; {truth.path} has others"),
        (counted, f"Frequency groups of {path} are not those of its image counts (r 1-10, c 11-100, f more)"),
    ):
        different = [
            f"{name!r} {other} instead of {letter}"
            for name, letter, other in zip(table.names, table.frequencies, others, strict=True)
            if other and other != letter
        ]
        if different:
            more = ", ..." if len(different) > 3 else ""
            examples = ", ".join(different[:3])
            notes.append(f"{words} in {len(different)} of {len(counted)} categories: {examples}{more}.")
    return notes


def cap_notes(protocol: str, caps: Caps | None) -> list[str]:
    """A note if the given caps are not for the protocol of the evaluation."""
    if not caps or protocol in caps:
        return []
    given = " and ".join(f"{cap} {CAP_WORDS[other]}" for other, cap in caps.items())
    return [
        f"The cap is {protocol.upper()}'s own, {PROTOCOL_DETECTIONS[protocol]} detections "
        f"{CAP_WORDS[protocol]}; the given one, {given}, is for {' and '.join(map(str.upper, caps))}."
    ]


def bin_notes(known: Mapping[str, Metric], numbers: Mapping[str, float | None]) -> list[str]:
    """Notes on means for which some bins are empty."""
    notes = []
    for metric in known.values():
        empty = [key for key in metric.of if key in numbers and numbers[key] is None]
        if empty:
            notes.append(
                f"{metric.key} is the mean of {len(metric.of) - len(empty)} bins: "
                f"no category with ground truth in {', '.join(empty)}."
            )
    return notes


def detection_notes(scores: np.ndarray, boxes: np.ndarray | None, sizes: np.ndarray) -> list[str]:
    """Signs that detections are in another format.

    ``scores`` (N,); ``boxes`` (N, 4) as x, y, width, height in pixels, or None; ``sizes`` (N, 2) is height
    and width of every detection's image.
    """
    outside = int(np.count_nonzero((scores < 0) | (scores > 1)))
    notes = [] if boxes is None or len(boxes) == 0 else _box_notes(boxes, *sizes.T)
    if outside:
        notes.append(
            f"{outside:,} of {len(scores):,} scores are outside [0, 1], such as percentages or logits: AP "
            "depends on their order alone, the calibration error does not."
        )
    return notes


def _box_notes(boxes: np.ndarray, height: np.ndarray, width: np.ndarray) -> list[str]:
    right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    leaving = (boxes[:, :2] < -_SLACK).any(axis=1) | (right > width + _SLACK) | (bottom > height + _SLACK)
    tiny = (boxes[:, 2:] < 1).any(axis=1)
    total, notes = f"{len(boxes):,} boxes", []
    if (count := int(np.count_nonzero(leaving))) >= ODD * len(boxes):
        notes.append(
            f"{count:,} of {total} leave their image: are they corners x1, y1, x2, y2, or of another size of "
            f"the image? {_FORM}"
        )
    if (count := int(np.count_nonzero(tiny))) >= ODD * len(boxes):
        notes.append(f"{count:,} of {total} are less than a pixel wide or high: are they fractions? {_FORM}")
    elif len(boxes) >= MANY and (2 * right < width).all() and (2 * bottom < height).all():
        notes.append(
            f"All of {total} lie in the upper left quarter of their image: are they percentages, or of a "
            f"smaller image? {_FORM}"
        )
    return notes
