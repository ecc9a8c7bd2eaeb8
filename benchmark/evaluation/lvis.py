"""LVIS evaluation of a file of detections."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.evaluation.engine import AREAS, Curves, Engine
from benchmark.evaluation.errors import EvaluationError
from benchmark.evaluation.ground_truth import GroundTruth, read_ground_truth
from benchmark.evaluation.metrics import METRICS, PROTOCOL_DETECTIONS, Metric
from benchmark.files import atomic_path, write_json
from benchmark.inference.detections import read_detections

if TYPE_CHECKING:
    from pandas import DataFrame

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Evaluation:
    """The result: ``metrics[iou type][key]`` as fractions, None where there is nothing to average.

    ``per_class`` has one row for each category in ascending id: ``id``, ``name``, ``frequency``,
    ``instances`` (in the ground truth), and for each IoU type ``<iou>_AP`` and ``<iou>_AR`` as fractions, NaN
    for categories without ground truth.
    """

    ground_truth: Path
    detections: Path
    max_detections: int
    images: int
    rows: int
    metrics: dict[str, dict[str, float | None]]
    per_class: "DataFrame"

    def write(self, metrics: Path | None, per_class: Path | None) -> None:
        """Write the metrics as JSON and the categories as CSV, each atomically, where a path is given."""
        if per_class is not None:
            with atomic_path(per_class) as temporary:
                self.per_class.to_csv(temporary, index=False, lineterminator="\n")
        if metrics is not None:
            write_json(metrics, self.metrics)

    def text(self) -> str:
        """The numbers as a table for people, in percent."""
        evaluated = int((self.per_class["instances"] > 0).sum())
        lines = [
            f"{self.images:,} images, {evaluated:,} of {len(self.per_class):,} categories with ground truth, "
            f"{self.rows:,} detections, at most {self.max_detections} an image",
            "",
            "         " + "".join(f"{name:>7}" for name in self.metrics),
        ]
        for metric in METRICS.values():
            key = metric.key_for(self.max_detections)
            values = [metric.format(numbers[key]) or "-" for numbers in self.metrics.values()]
            lines.append(f"{key:<9}" + "".join(f"{value:>7}" for value in values) + f"   {metric.meaning}")
        return "\n".join(lines)


def evaluate_detections(
    ground_truth: Path,
    detections: Path,
    iou_types: list[str] | None = None,
    max_detections: int = PROTOCOL_DETECTIONS,
) -> Evaluation:
    """Compute the LVIS numbers of ``detections`` (Parquet, or LVIS results JSON) on an LVIS annotation file.

    ``iou_types`` are ``bbox`` and ``segm``, by default all that both files hold. The numbers are those of
    lvis-api 0.5.3 on results without ``bbox`` in mask evaluation, except that an empty file gives zeros.
    Raises ``EvaluationError`` and ``DetectionError`` for files that cannot be evaluated.
    """
    import pandas as pd

    truth = read_ground_truth(ground_truth)
    table = read_detections(detections)
    table.check_ids(truth.names, truth.sizes, truth.path)
    selected = _select_iou_types(truth, table.iou_types, iou_types, table.path)
    rows = truth.counted_rows(table.image_ids, table.category_ids, table.scores, max_detections)
    engine = Engine(truth.path, list(truth.names))
    frequencies = np.array(list(truth.frequencies.values()))
    columns: dict[str, object] = {
        "id": list(truth.names),
        "name": list(truth.names.values()),
        "frequency": frequencies,
        "instances": truth.instances,
    }
    metrics: dict[str, dict[str, float | None]] = {}
    for iou_type in selected:
        curves = engine.curves(table, rows, iou_type, max_detections)
        metrics[iou_type] = {
            metric.key_for(max_detections): _summary(metric, curves, frequencies)
            for metric in METRICS.values()
        }
        columns[f"{iou_type}_AP"] = _per_category(curves.precision[..., 0].reshape(-1, len(frequencies)))
        columns[f"{iou_type}_AR"] = _per_category(curves.recall[..., 0])
    return Evaluation(
        ground_truth=truth.path,
        detections=table.path,
        max_detections=max_detections,
        images=len(truth.sizes),
        rows=len(table),
        metrics=metrics,
        per_class=pd.DataFrame(columns),
    )


def _select_iou_types(truth: GroundTruth, found: list[str], asked: list[str] | None, path: Path) -> list[str]:
    available = [name for name in found if name == "bbox" or truth.masks]
    selected = available if asked is None else list(dict.fromkeys(asked))
    missing = [name for name in selected if name not in available]
    if missing or not selected:
        raise EvaluationError(
            f"nothing to evaluate for {missing[0] if missing else 'segm'}",
            where=f"{path} with {truth.path}",
            found=f"detections: {' and '.join(found)}; ground truth masks: {'yes' if truth.masks else 'no'}",
            remedy="evaluate what both files hold, or predict with a mask model",
        )
    return selected


def _summary(metric: Metric, curves: Curves, frequencies: np.ndarray) -> float | None:
    """Mean over all defined values of a selection, in one step as in lvis-api: equal to the last bit."""
    area = AREAS.index(metric.area)
    values = curves.precision[..., area] if metric.kind == "precision" else curves.recall[..., area]
    if metric.iou is not None:
        values = values[np.isclose(IOU_THRESHOLDS, metric.iou)]
    if metric.frequency is not None:
        values = values[..., frequencies == metric.frequency]
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def _per_category(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of (K, C); a category without ground truth, -1 throughout, becomes NaN."""
    return np.where((values > -1).all(axis=0), values.mean(axis=0), np.nan)
