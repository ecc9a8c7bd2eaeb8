"""The adapter to hotcoco, a fast evaluator that agrees with the official APIs bit for bit as used here.

hotcoco is young, so only this file uses it, and the tests compare it with ``lvis`` 0.5.3 and pycocotools.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np

from benchmark.evaluation.errors import EvaluationError
from benchmark.evaluation.ground_truth import GroundTruth
from benchmark.evaluation.selection import Selection
from benchmark.formats import BYTE_ORDER_MARK

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")
_EVERY_AREA = [0.0, 1e10]
_POSITIVE_AREA = [5e-324, 1e300]
_UNLIMITED = 10**6
_IMAGES_AT_ONCE = 1000  # matches are Python objects: those of a thousand images take a hundred megabytes


@dataclass(frozen=True)
class Calibration:
    """Detections in ten equal bins of score, without empty bins.

    ``error`` is the expected calibration error, None without detections; ``scores`` and ``precision`` float64
    (B,) are the mean score and the fraction of correct detections of each bin, ``counts`` int64 (B,) its
    number of detections.
    """

    error: float | None
    scores: np.ndarray
    precision: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Precision and score float64 (T, R, C, A) at the highest cap, recall (T, C, A, M) at each.

    T IoU thresholds 0.50 to 0.95, R = 101 recall thresholds, C categories in ascending id, A = ``AREAS`` (or
    only ``all``), M caps of detections. -1 for categories without ground truth.
    """

    precision: np.ndarray
    scores: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class Matches:
    """The matches of N detections, for re-weighting images, in the order of the computation of AP.

    The order is ascending category, descending score, and for equal scores ascending image and file order.
    ``images``, ``categories`` int64 (N,) are positions; ``correct``, ``ignored`` bool (T, N): an ignored
    detection is neither correct nor wrong. ``objects`` int64 (K, 3): position of the image, of the category,
    and the number of objects that count there.
    """

    images: np.ndarray
    categories: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


class Engine:
    """Evaluates detections against one ground truth, which it loads once for each IoU type."""

    def __init__(self, truth: GroundTruth) -> None:
        self._truth = truth
        self._lvis = truth.protocol == "lvis"

    def load(self, selection: Selection, rows: np.ndarray, iou_type: str) -> "Loaded":
        """Load ``rows`` of a selection into the engine.

        ``iou_type`` is ``bbox`` or ``segm``. Boxes need no Python object per detection; masks need one for
        each run-length code. Raises ``EvaluationError`` and ``DetectionError``.
        """
        table = selection.table
        columns = [table.image_ids, table.scores, table.category_ids]
        if iou_type == "bbox":
            assert table.boxes is not None
            boxes = table.boxes[rows].astype(np.float64)
            codes: list[Any] | None = None
            areas = boxes[:, 2] * boxes[:, 3]
            truth = self._boxes
        else:
            truth = self._masks
            masks = table.masks(rows, selection.sizes)
            boxes, areas = np.zeros((len(rows), 4)), masks.areas
            codes = [
                {"size": size, "counts": counts}
                for size, counts in zip(masks.sizes.tolist(), masks.counts, strict=True)
            ]
        if self._lvis:  # lvis-api drops records without an area, silently and after the cap
            kept = np.flatnonzero(areas > 0)
            rows, boxes, areas = rows[kept], boxes[kept], areas[kept]
            codes = [codes[row] for row in kept.tolist()] if codes is not None else None
        images, scores, categories = (column[rows].astype(np.float64) for column in columns)
        with _errors("detections cannot be evaluated", table.path):
            found = truth.load_res(np.column_stack([images, boxes, scores, categories]), segmentation=codes)
            if codes is not None:  # the size class is that of the mask, not of the box
                found.update_anns(ids=np.arange(1, len(rows) + 1), area=areas)
        return Loaded(self._truth, truth, found, rows, iou_type, table.path)

    @cached_property
    def _boxes(self) -> hotcoco.COCO:
        truth = self._truth
        kept = truth.areas > 0 if self._lvis else np.ones(len(truth.ids), bool)
        with _errors("bad annotation file", truth.path):
            return hotcoco.COCO.from_arrays(
                truth.images,
                [{"id": id_, "name": name} for id_, name in truth.names.items()],
                truth.image_ids[truth.image_positions[kept]],
                np.array(list(truth.names), np.int64)[truth.category_positions[kept]],
                truth.boxes[kept],
                ids=truth.ids[kept],
                area=truth.areas[kept],
                iscrowd=truth.crowd[kept],
            )

    @cached_property
    def _masks(self) -> hotcoco.COCO:
        self._truth.check_masks()
        measured = self._truth.measured
        with _errors("bad annotation file", self._truth.path), _without_mark(self._truth.path) as path:
            truth = hotcoco.COCO(str(path))
            if measured.any():
                truth.update_anns(ids=self._truth.ids[measured], area=self._truth.areas[measured])
            if not self._lvis:
                return truth
            return truth.filter(area_rng=_POSITIVE_AREA, drop_empty_images=False)


class Loaded:
    """Detections loaded by ``Engine.load``, for several evaluations."""

    def __init__(
        self,
        truth: GroundTruth,
        objects: hotcoco.COCO,
        found: hotcoco.COCO,
        rows: np.ndarray,
        iou_type: str,
        path: Path,
    ) -> None:
        self._truth = truth
        self._objects = objects
        self._found = found
        self._rows = rows
        self._iou_type = iou_type
        self._path = path
        self._categories = np.fromiter(truth.names, np.int64, len(truth.names))

    @cached_property
    def _evaluation(self) -> hotcoco.COCOeval:
        return hotcoco.COCOeval(
            self._objects, self._found, self._iou_type, lvis_style=self._truth.protocol == "lvis"
        )

    def curves(
        self,
        max_detections: tuple[int, ...] | None,
        areas: tuple[str, ...] = AREAS,
        categories: np.ndarray | None = None,
    ) -> Curves:
        """Precision and recall with each of these caps, or without a cap (``None``).

        ``areas`` is ``AREAS`` or ``("all",)``; only ``categories``, bool (C,), are evaluated if given.
        """
        with _errors("detections cannot be evaluated", self._path):
            evaluation = self._evaluation
            evaluation.params.max_dets = list(max_detections or (_UNLIMITED,))
            if areas == ("all",):
                _only_all(evaluation)
            if categories is not None:
                evaluation.params.cat_ids = self._categories[categories].tolist()
            evaluation.evaluate()
            evaluation.accumulate()
            arrays = evaluation.eval
            assert arrays is not None
            # the engine may have fewer categories: insert the others at their positions
            places = np.searchsorted(self._categories, evaluation.params.cat_ids)
        precision, scores = (
            self._spread(arrays[name][..., -1], places, axis=2) for name in ("precision", "scores")
        )
        return Curves(precision, scores, self._spread(arrays["recall"], places, axis=1))

    def calibration(self) -> Calibration:
        """Calibration of the scores as probabilities at IoU 0.5; call ``curves`` before."""
        with _errors("detections cannot be evaluated", self._path):
            found = self._evaluation.calibration(n_bins=10, iou_threshold=0.5)
        filled = [item for item in found["bins"] if item["count"]]
        return Calibration(
            error=float(found["ece"]) if found["num_detections"] else None,
            scores=np.array([item["avg_confidence"] for item in filled], np.float64),
            precision=np.array([item["avg_accuracy"] for item in filled], np.float64),
            counts=np.array([item["count"] for item in filled], np.int64),
        )

    def error_types(self) -> dict[str, float]:
        """The AP50 that each of TIDE's error types costs, as fractions; call ``curves`` before.

        Bolya et al. 2020; the keys are Cls, Loc, Both, Dupe, Bkg and Miss.
        """
        with _errors("detections cannot be evaluated", self._path):
            costs = self._evaluation.tide_errors()["delta_ap"]
        return {kind: float(costs[kind]) for kind in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")}

    def matches(self) -> Matches:
        """Match once, for any number of re-weighted averages."""
        images = self._truth.image_ids
        cells: list[tuple[int, int, int]] = []
        scores: list[list[float]] = []
        flags: list[np.ndarray] = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            with _errors("detections cannot be evaluated", self._path):
                evaluation = hotcoco.COCOeval(
                    self._objects, self._found, self._iou_type, lvis_style=self._truth.protocol == "lvis"
                )
                evaluation.params.img_ids = images[start : start + _IMAGES_AT_ONCE].tolist()
                evaluation.params.max_dets = [_UNLIMITED]
                _only_all(evaluation)
                evaluation.evaluate()
                for cell in filter(None, evaluation.eval_imgs):
                    cells.append((cell["image_id"], cell["category_id"], sum(cell["gtInDenominator"])))
                    scores.append(cell["dtScores"])
                    found = np.array([cell["dtMatched"], cell["dtIgnore"]], bool)
                    flags.append(found.reshape(2, len(IOU_THRESHOLDS), -1))
        ids = np.array(cells, np.int64).reshape(-1, 3)
        objects = np.stack(
            [np.searchsorted(images, ids[:, 0]), np.searchsorted(self._categories, ids[:, 1]), ids[:, 2]],
            axis=1,
        )
        lengths = np.array([len(values) for values in scores], np.int64)
        of_image, of_category = (np.repeat(objects[:, column], lengths) for column in (0, 1))
        score = np.array([value for values in scores for value in values], np.float64)
        none = np.zeros((2, len(IOU_THRESHOLDS), 0), bool)
        matched, ignored = np.concatenate([none, *flags], axis=2)
        # stable, so that cells stay in ascending image, and the detections of a cell in their order
        order = np.lexsort((-score, of_category))
        return Matches(
            of_image[order], of_category[order], (matched & ~ignored)[:, order], ignored[:, order], objects
        )

    def _spread(self, values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
        shape = list(values.shape)
        shape[axis] = len(self._categories)
        if shape == list(values.shape):
            return values
        whole = np.full(shape, -1.0)
        whole[(slice(None),) * axis + (places,)] = values
        return whole


@contextmanager
def _without_mark(path: Path) -> Iterator[Path]:
    """The file, or a copy of it without the byte order mark, which the engine does not accept."""
    with path.open("rb") as file:
        if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=".json") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield Path(copy.name)


def _only_all(evaluation: Any) -> None:
    evaluation.params.area_rng = [_EVERY_AREA]
    evaluation.params.area_rng_lbl = ["all"]


@contextmanager
def _errors(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise EvaluationError(what, where=path, found=error) from error
