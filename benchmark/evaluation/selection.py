"""Selection of the detections that count: caps of the protocols, and unverified categories."""

import numpy as np

from benchmark.evaluation.ground_truth import GroundTruth
from benchmark.inference.detections import DetectionTable

FIXED_DETECTIONS = 10_000
"""Number of detections of a category kept over the dataset for AP-fixed (Dave et al., arXiv 2102.01066)."""


def highest_scores(groups: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
    """Whether each of N detections is among the ``number`` highest scores of its group; bool (N,).

    ``groups`` are int64 from 0 (N,). Of equal scores at the limit, the first in the file are kept.
    """
    counts = np.bincount(groups)
    kept = np.ones(len(groups), bool)
    full = counts > number
    if not full.any():
        return kept
    crowded = np.flatnonzero(full[groups])
    # NumPy sorts 16 bits by counting, ten times as fast
    small = len(counts) <= np.iinfo(np.uint16).max
    order = crowded[np.argsort(groups[crowded].astype(np.uint16 if small else np.int64), kind="stable")]
    stops = np.cumsum(counts[full])
    for stop, count in zip(stops.tolist(), counts[full].tolist(), strict=True):
        rows = order[stop - count : stop]
        values = scores[rows]
        border = np.partition(values, -number)[-number]
        kept[rows[values < border]] = False
        ties = rows[values == border]
        kept[ties[number - np.count_nonzero(values > border) :]] = False
    return kept


class Selection:
    """The N detections of a table with their positions in a ground truth.

    ``images`` and ``categories`` are positions int64 (N,). Raises ``DetectionError`` if the two do not belong
    together.
    """

    def __init__(self, truth: GroundTruth, table: DetectionTable) -> None:
        self._truth = truth
        self.table = table
        self.images, self.categories = table.locate(truth.names, truth.image_ids, truth.path)
        self._counts = truth.verified[self.images, self.categories]

    def rows(self, max_detections: int) -> np.ndarray:
        """Rows that can change a number, ascending.

        LVIS first keeps the ``max_detections`` highest scores of each image over all categories, and then
        ignores categories that were not verified in the image. This leaves at most a fifth of the detections,
        so memory stays small. COCO has a cap for each category in an image.
        """
        groups = self.images
        if self._truth.protocol == "coco":
            groups = self.images * len(self._truth.names) + self.categories
        kept = highest_scores(groups, self.table.scores, max_detections)
        return np.flatnonzero(kept & self._counts)

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of every detection's image, int64 (N, 2)."""
        return self._truth.sizes[self.images]

    def fixed_rows(self) -> np.ndarray:
        """Rows for AP-fixed: the ``FIXED_DETECTIONS`` highest scores of each category over all images."""
        kept = highest_scores(self.categories, self.table.scores, FIXED_DETECTIONS)
        return np.flatnonzero(kept & self._counts)
