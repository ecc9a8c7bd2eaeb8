"""The adapter to hotcoco, a fast evaluator that agrees with the official LVIS API bit for bit in this set-up.

hotcoco is young, so nothing outside this file knows about it, and the tests compare it with ``lvis`` 0.5.3.
"""

from dataclasses import dataclass
from pathlib import Path

import hotcoco
import numpy as np

from benchmark.evaluation.errors import EvaluationError
from benchmark.inference.detections import DetectionTable

AREAS = ("all", "small", "medium", "large")
_POSITIVE_AREA = [5e-324, 1e300]  # lvis-api silently drops records of area 0, after the cap; hotcoco does not


@dataclass(frozen=True)
class Curves:
    """Precision float64 (T, R, C, A) and recall float64 (T, C, A), -1 where a category has no ground truth.

    T IoU thresholds 0.50 to 0.95, R = 101 recall thresholds, C categories in ascending id, A = ``AREAS``.
    """

    precision: np.ndarray
    recall: np.ndarray


class Engine:
    """Evaluates detections against one ground truth file, with its C category ids in ascending order."""

    def __init__(self, ground_truth: Path, category_ids: list[int]) -> None:
        self._category_ids = np.array(category_ids, np.int64)
        try:
            truth = hotcoco.COCO(str(ground_truth))
            self._truth = truth.filter(area_rng=_POSITIVE_AREA, drop_empty_images=False)
        except (ValueError, TypeError, KeyError) as error:
            raise EvaluationError("bad annotation file", where=ground_truth, found=error) from error

    def curves(self, table: DetectionTable, rows: np.ndarray, iou_type: str, max_detections: int) -> Curves:
        """Evaluate ``rows`` of ``table``; ``iou_type`` is ``bbox`` or ``segm``."""
        try:
            return self._curves(_records(table, rows, iou_type), iou_type, max_detections)
        except (ValueError, TypeError, KeyError) as error:
            raise EvaluationError("detections cannot be evaluated", where=table.path, found=error) from error

    def _curves(
        self, records: np.ndarray | list[dict[str, object]], iou_type: str, max_detections: int
    ) -> Curves:
        found = self._truth.load_res(records)
        found = found.cap_detections_per_image(max_detections)
        found = found.filter(area_rng=_POSITIVE_AREA, drop_empty_images=False)
        evaluation = hotcoco.COCOeval(self._truth, found, iou_type, lvis_style=True)
        evaluation.params.max_dets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        arrays = evaluation.eval
        assert arrays is not None
        # the filter has dropped categories without annotations: put the others back into their places
        columns = np.searchsorted(self._category_ids, evaluation.params.cat_ids)
        count = len(self._category_ids)
        precision = np.full((*arrays["precision"].shape[:2], count, len(AREAS)), -1.0)
        recall = np.full((len(arrays["recall"]), count, len(AREAS)), -1.0)
        # the last axis is the cap, of which there is one
        precision[:, :, columns] = arrays["precision"][..., 0]
        recall[:, columns] = arrays["recall"][..., 0]
        return Curves(precision, recall)


def _records(table: DetectionTable, rows: np.ndarray, iou_type: str) -> np.ndarray | list[dict[str, object]]:
    if iou_type == "bbox":
        assert table.boxes is not None
        columns = [table.image_ids[rows], *table.boxes[rows].T, table.scores[rows], table.category_ids[rows]]
        return np.column_stack([column.astype(np.float64) for column in columns])
    assert table.mask_sizes is not None
    assert table.mask_counts is not None
    # without a box: the size class must come from the mask's area
    columns = [table.image_ids[rows], table.category_ids[rows], table.scores[rows], table.mask_sizes[rows]]
    counts = table.mask_counts.take(rows).to_pylist()
    return [
        {
            "image_id": image,
            "category_id": category,
            "score": score,
            "segmentation": {"size": size, "counts": count},
        }
        for image, category, score, size, count in zip(
            *(item.tolist() for item in columns), counts, strict=True
        )
    ]
