"""Evaluation of files of detections against one ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.annotations import Vocabulary, check_same_vocabulary
from benchmark.evaluation.engine import (
    AREAS,
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    Calibration,
    Curves,
    Engine,
    Matches,
)
from benchmark.evaluation.errors import EvaluationError
from benchmark.evaluation.ground_truth import read_ground_truth
from benchmark.evaluation.metrics import CAP_WORDS, PROTOCOL_DETECTIONS, Caps, Metric, metrics_of
from benchmark.evaluation.notes import area_notes, bin_notes, cap_notes, detection_notes, letter_notes
from benchmark.evaluation.selection import Selection
from benchmark.evaluation.summary import bin_mean, mean_of, mean_precision, mean_recall, per_category
from benchmark.files import atomic_path, write_json, write_text
from benchmark.inference.detections import DetectionTable, read_detections
from benchmark.statistics import ClassStatistics
from benchmark.tables import csv_text

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Evaluation:
    """The result: ``metrics[iou type][key]`` as fractions, None if there is nothing to average.

    ``columns`` describe the categories in ascending id: ``id``, ``name``, ``frequency``, ``instances`` (in
    the ground truth), ``training_instances`` if they are known, and for each IoU type ``<iou>_AP`` and
    ``<iou>_AR`` as fractions, NaN for categories without ground truth. ``curves`` are by IoU type; ``notes``
    are sentences on how to read the numbers.
    """

    ground_truth: Path
    detections: Path
    protocol: str
    max_detections: int
    images: int
    rows: int
    metrics: dict[str, dict[str, float | None]]
    columns: dict[str, np.ndarray]
    curves: dict[str, Curves]
    calibration: dict[str, Calibration]
    notes: list[str]

    @property
    def per_class(self) -> "DataFrame":
        """``columns`` as a table, one row for each category."""
        import pandas as pd  # takes half a second, and the command line does not need it

        return pd.DataFrame(self.columns)

    def write(
        self,
        metrics: Path | None = None,
        per_class: Path | None = None,
        curves: Path | None = None,
        calibration: Path | None = None,
    ) -> None:
        """Write each part for which a path is given, atomically.

        ``metrics`` as JSON, the categories and the bins of ``calibration`` as CSV, ``curves`` as NumPy's
        .npz: the axes ``category_ids``, ``iou_thresholds``, ``recall_thresholds``, ``areas``, and for each
        IoU type ``<iou>_precision`` and ``<iou>_scores`` float64 (T, R, C, A) and ``<iou>_recall``
        (T, C, A), -1 where not defined.
        """
        if per_class is not None:
            rows = zip(*(column.tolist() for column in self.columns.values()), strict=True)
            cells = [["" if value != value else value for value in row] for row in rows]
            write_text(per_class, csv_text([list(self.columns), *cells]))
        if curves is not None:
            arrays = {
                "category_ids": self.columns["id"],
                "iou_thresholds": IOU_THRESHOLDS,
                "recall_thresholds": RECALL_THRESHOLDS,
                "areas": np.array(AREAS),
            }
            for iou, found in self.curves.items():
                arrays |= {f"{iou}_precision": found.precision, f"{iou}_scores": found.scores}
                arrays[f"{iou}_recall"] = found.recall[..., -1]
            with atomic_path(curves) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, **arrays)
        if calibration is not None:
            rows_of_bins: list[Sequence[object]] = [["iou", "score", "precision", "count"]]
            for iou, bins in self.calibration.items():
                columns = (bins.scores.tolist(), bins.precision.tolist(), bins.counts.tolist())
                rows_of_bins += [(iou, *row) for row in zip(*columns, strict=True)]
            write_text(calibration, csv_text(rows_of_bins))
        if metrics is not None:
            write_json(metrics, self.metrics)

    def text(self) -> str:
        """The numbers as a text table, in percent."""
        evaluated = int((self.columns["instances"] > 0).sum())
        lines = [
            f"{self.images:,} images, {evaluated:,} of {len(self.columns['id']):,} categories with ground "
            f"truth, {self.rows:,} detections, {self.protocol.upper()} protocol, at most "
            f"{self.max_detections} detections "
            f"{CAP_WORDS[self.protocol]}",
            "",
            " " * 15 + "".join(f"{name:>7}" for name in self.metrics),
        ]
        known = metrics_of(self.protocol, self.max_detections)
        for key in next(iter(self.metrics.values())):
            metric = known[key]
            values = [metric.format(numbers[key]) or "-" for numbers in self.metrics.values()]
            lines.append(f"{key:<15}" + "".join(f"{value:>7}" for value in values) + f"   {metric.meaning}")
        return "\n".join([*lines, *(["", *self.notes] if self.notes else [])])


class Evaluator:
    """One ground truth for any number of files of detections, loaded once.

    Follows the LVIS protocol if the images of the annotation file list the categories that were verified in
    them, else the COCO protocol. ``statistics`` is a table of class statistics of the *training* split
    (``longtail stats``): it adds AP by training instances, bAP and eAP, and ``frequencies`` (C,), the letters
    r, c, f, are those of the training split; without it, those of the ground truth, or empty. Raises
    ``AnnotationError``, ``StatisticsError`` and ``EvaluationError`` for files that cannot be used.
    """

    def __init__(self, ground_truth: Path, statistics: Path | None = None) -> None:
        self.truth = read_ground_truth(ground_truth, letters=statistics is not None)
        self.counts: np.ndarray | None = None
        self.frequencies = self.truth.frequencies
        self._about_data = area_notes(self.truth)
        if statistics is not None:
            table = self._training_statistics(Path(statistics))
            self.counts, self.frequencies = table.instance_counts, np.array(table.frequencies)
            self._about_data += letter_notes(self.truth, table, Path(statistics))
        self._engine = Engine(self.truth)

    def evaluate(
        self,
        detections: Path,
        iou_types: list[str] | None = None,
        max_detections: Caps | None = None,
        errors: bool = False,
        calibration: bool = False,
    ) -> Evaluation:
        """Compute every number of ``detections`` (Parquet, or LVIS or COCO results JSON).

        ``iou_types`` are ``bbox`` and ``segm``, by default all that ``detections`` have; ``max_detections``
        replaces the caps of the protocols, which count differently; ``errors`` adds TIDE's error types, which
        take as long as everything else, and ``calibration`` the expected calibration error and its bins. The
        numbers are those of lvis-api 0.5.3 on results without ``bbox`` in mask evaluation, or of pycocotools,
        except that an empty file gives zeros. Raises ``EvaluationError`` and ``DetectionError`` for files
        that cannot be evaluated.
        """
        truth = self.truth
        number = self._number(max_detections)
        table = read_detections(detections)
        selection = Selection(truth, table)
        rows = selection.rows(number)
        asked = self.metrics(max_detections, errors, calibration)
        columns = self._category_columns()
        metrics: dict[str, dict[str, float | None]] = {}
        curves: dict[str, Curves] = {}
        bins: dict[str, Calibration] = {}
        for iou_type in self._iou_types(table, iou_types):
            loaded = self._engine.load(selection, rows, iou_type)
            curves[iou_type] = loaded.curves(_caps(asked))
            engine: dict[str, float | None] = {}
            if errors:
                engine |= {f"dAP-{kind}": cost for kind, cost in loaded.error_types().items()}
            if calibration:
                bins[iou_type] = loaded.calibration()
                engine["ECE"] = bins[iou_type].error
            del loaded
            fixed = self._fixed(curves[iou_type], selection, rows, iou_type)
            columns[f"{iou_type}_AP"], columns[f"{iou_type}_AR"] = per_category(curves[iou_type])
            metrics[iou_type] = self._numbers(asked, curves[iou_type], fixed, engine)
        return Evaluation(
            ground_truth=truth.path,
            detections=table.path,
            protocol=truth.protocol,
            max_detections=number,
            images=len(truth.image_ids),
            rows=len(table),
            metrics=metrics,
            columns=columns,
            curves=curves,
            calibration=bins,
            notes=[
                *self._about_data,
                *cap_notes(truth.protocol, max_detections),
                *detection_notes(table.scores, table.boxes, selection.sizes),
                *bin_notes(metrics_of(truth.protocol, number), next(iter(metrics.values()))),
            ],
        )

    def metrics(
        self, max_detections: Caps | None = None, errors: bool = False, calibration: bool = False
    ) -> list[Metric]:
        """The metrics that can be computed from the available data, in display order."""
        letters = bool((self.frequencies != "").any())
        return [
            metric
            for metric in metrics_of(self.truth.protocol, self._number(max_detections)).values()
            if (errors or metric.kind != "error")
            and (calibration or metric.kind != "calibration")
            and (letters or metric.frequency is None)
            and (self.counts is not None or (metric.bin is None and metric.kind != "mean"))
        ]

    def match(
        self, detections: Path, iou_type: str, metrics: Sequence[Metric], max_detections: Caps | None = None
    ) -> tuple[dict[str, float | None], Matches]:
        """The numbers of one file for ``metrics``, and the matches of its detections."""
        table = read_detections(detections)
        selection = Selection(self.truth, table)
        number = self._number(max_detections)
        (iou_type,) = self._iou_types(table, [iou_type])
        loaded = self._engine.load(selection, selection.rows(number), iou_type)
        return self._numbers(metrics, loaded.curves(_caps(metrics))), loaded.matches()

    def _category_columns(self) -> dict[str, np.ndarray]:
        """The columns of ``Evaluation`` that do not depend on detections."""
        columns: dict[str, np.ndarray] = {
            "id": np.fromiter(self.truth.names, np.int64, len(self.truth.names)),
            "name": np.array(list(self.truth.names.values())),
            "frequency": self.frequencies,
            "instances": self.truth.instances,
        }
        if self.counts is not None:
            columns["training_instances"] = self.counts
        return columns

    def _fixed(self, curves: Curves, selection: Selection, rows: np.ndarray, iou_type: str) -> Curves:
        """Curves of AP-fixed: the ``curves`` of ``rows``, with those categories replaced for which other
        detections count.

        The AP of a category does not depend on the detections of others, so only few need to be evaluated
        again.
        """
        fixed_rows = selection.fixed_rows()
        changed = np.zeros(len(self.truth.names), bool)
        changed[selection.categories[np.setxor1d(rows, fixed_rows, assume_unique=True)]] = True
        if not changed.any():
            return curves
        fixed_rows = fixed_rows[changed[selection.categories[fixed_rows]]]
        other = self._engine.load(selection, fixed_rows, iou_type).curves(None, ("all",), changed)
        precision = curves.precision[..., :1].copy()
        precision[:, :, changed] = other.precision[:, :, changed]
        return Curves(precision, curves.scores, curves.recall)

    def _training_statistics(self, path: Path) -> ClassStatistics:
        statistics = ClassStatistics.read(path)
        check_same_vocabulary(
            statistics.as_vocabulary(f"class statistics {path}"),
            Vocabulary.of(f"ground truth {self.truth.path}", self.truth.names.items()),
            EvaluationError,
            remedy="count the training annotations of the same dataset with longtail stats",
        )
        return statistics

    def _number(self, max_detections: Caps | None) -> int:
        own = PROTOCOL_DETECTIONS[self.truth.protocol]
        return (max_detections or {}).get(self.truth.protocol, own)

    def _numbers(
        self,
        metrics: Sequence[Metric],
        curves: Curves,
        fixed: Curves | None = None,
        engine: Mapping[str, float | None] | None = None,
    ) -> dict[str, float | None]:
        """The metrics by key. ``fixed`` are the curves of AP-fixed, ``engine`` the numbers that the engine
        computes."""
        numbers: dict[str, float | None] = {}
        ap, _ = per_category(curves)
        caps = _caps(metrics)
        for metric in metrics:
            categories = np.ones(len(ap), bool)
            if metric.frequency is not None:
                categories = self.frequencies == metric.frequency
            if engine is not None and metric.key in engine:
                value = engine[metric.key]
            elif metric.kind == "mean":
                value = mean_of(metric, numbers)
            elif metric.bin is not None:
                assert self.counts is not None
                value = bin_mean(ap, self.counts, metric.bin)
            elif metric.kind == "recall":
                value = mean_recall(metric, curves.recall, categories, caps)
            else:
                source = fixed if metric.fixed and fixed is not None else curves
                value = mean_precision(metric, source.precision, categories)
            numbers[metric.key] = value
        return numbers

    def _iou_types(self, table: DetectionTable, asked: list[str] | None) -> list[str]:
        found, masks = table.iou_types, self.truth.masks
        selected = found if asked is None else list(dict.fromkeys(asked))
        if asked is None and len(table) == 0 and not masks:
            selected = ["bbox"]  # without detections the file does not show whether it is for masks
        missing = [name for name in selected if name not in found or (name == "segm" and not masks)]
        if missing:
            raise EvaluationError(
                f"nothing to evaluate for {missing[0]}",
                where=f"{table.path} with {self.truth.path}",
                found=f"detections: {' and '.join(found)}; ground truth masks: {'yes' if masks else 'no'}",
                remedy="evaluate the boxes alone (--iou bbox), or take a ground truth with masks"
                if "segm" in found and not masks
                else "evaluate what both files hold, or predict with a mask model",
            )
        return selected


def _caps(metrics: Sequence[Metric]) -> tuple[int, ...]:
    return tuple(sorted({item.max_detections for item in metrics if item.max_detections is not None}))


def evaluate_detections(
    ground_truth: Path,
    detections: Path,
    iou_types: list[str] | None = None,
    max_detections: Caps | None = None,
    statistics: Path | None = None,
    errors: bool = False,
    calibration: bool = False,
) -> Evaluation:
    """Evaluate one file of detections; see ``Evaluator``."""
    evaluator = Evaluator(ground_truth, statistics)
    return evaluator.evaluate(detections, iou_types, max_detections, errors, calibration)
