"""Predicts the detections of a validation split with one or several checkpoints."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import distributed

from benchmark.annotations import (
    AnnotationFile,
    Vocabulary,
    check_same_vocabulary,
    read_annotations,
    vocabulary_hash,
)
from benchmark.detectors import Detections, Detector, TestFeatures, build_detector
from benchmark.detectors.checkpoints import CheckpointError, conventions_of, load_weights, with_conventions
from benchmark.detectors.frozen import FrozenTensors, SharingError
from benchmark.images import Sample, TestImages, load
from benchmark.inference.detections import DetectionWriter
from benchmark.processes import fabric_of
from benchmark.progress import tracked
from benchmark.recipes.detector_settings import ModelSettings, TestingSettings
from benchmark.recipes.models import Run
from benchmark.recipes.paths import DatasetFiles
from benchmark.statistics import ClassStatistics, read_tables


def predict_dataset(
    run: Run,
    files: DatasetFiles,
    checkpoint: Path,
    output: Path,
    *,
    workers: int,
    devices: int = 1,
) -> dict[str, Any]:
    """Write the detections of every validation image as Parquet, boxes and masks in original pixels.

    With several processes, each takes every n-th image and the first one writes the file in the order of the
    annotations, so the file does not depend on their number.

    Args:
        run: the recipe.
        files: the files of its dataset.
        checkpoint: the finished checkpoint of its last stage.
        output: the Parquet file.
        workers: number of data loading processes of each process.
        devices: number of processes that were started, one per GPU; 0 for the CPU even if there is a GPU.

    Returns:
        Facts for the record.

    Raises:
        BenchmarkError: the checkpoint, the images or the annotations do not fit the recipe.
    """
    job = PredictionJob(run, files, checkpoint, output)
    ((_, facts),) = predict_together([job], workers=workers, devices=devices)
    assert not isinstance(facts, Exception)
    return facts


@dataclass(frozen=True, eq=False)
class PredictionJob:
    """A prediction to make: the recipe, the files of its dataset, the finished checkpoint of its last stage,
    and the Parquet file."""

    run: Run
    files: DatasetFiles
    checkpoint: Path
    output: Path

    def detector(self, annotations: AnnotationFile) -> Detector:
        """The detector with the weights of the checkpoint.

        Raises ``CheckpointError`` if it belongs to another recipe, or the annotations have other categories.
        """
        statistics = ClassStatistics.read(self.files.statistics)
        check_same_vocabulary(
            statistics.as_vocabulary(f"training statistics {self.files.statistics}"),
            Vocabulary.of(f"validation annotations {annotations.path}", annotations.categories),
            CheckpointError,
            remedy="list the same categories with the same ids and names in both files",
        )
        as_trained = with_conventions(self.run, conventions_of(self.checkpoint))
        tables = read_tables(self.files.intermediates, self.run.intermediates, statistics)
        detector = build_detector(as_trained, statistics, initial_weights=False, tables=tables)
        load_weights(detector, self.checkpoint, self.run, vocabulary_hash(annotations.categories))
        return detector

    def writer(self, annotations: AnnotationFile) -> DetectionWriter:
        """A writer for the Parquet file."""
        names = {category.id: category.name for category in annotations.categories}
        description = {
            "method": self.run.method,
            "variant": self.run.variant,
            "detector": self.run.detector_name,
            "dataset": self.run.dataset_name,
            "seed": self.run.seed,
        }
        return DetectionWriter(self.output, names, description, self.run.detector.masks)


Ended = tuple[PredictionJob, dict[str, Any] | Exception]
"""A finished prediction with the facts for its record, or a failed one with its error."""


DetectionRows = tuple[
    int, NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], list[dict[str, Any]] | None
]
"""The arguments of ``DetectionWriter.add``."""


@torch.no_grad()
def predict_together(jobs: Sequence[PredictionJob], *, workers: int, devices: int = 1) -> Iterator[Ended]:
    """Make several predictions in one pass over the validation images; yields each job when it has ended.

    The detectors differ only in their classifiers and test settings: everything before the classifier is
    computed once per image. Every file has the same bytes as with ``predict_dataset``. If one of several jobs
    fails, it is yielded with its error and the others continue. With one job, or with several processes (of
    which only some may have failed), the error is raised.

    Args:
        jobs: predictions on one dataset. With several processes, all make the jobs of the first process.
        workers: as for ``predict_dataset``.
        devices: as for ``predict_dataset``.

    Raises:
        BenchmarkError: bad input that concerns all jobs.
    """
    fabric = fabric_of(devices)
    fabric.launch()
    chosen = fabric.broadcast([str(job.output) for job in jobs])
    jobs = [job for job in jobs if str(job.output) in chosen]
    annotations = read_annotations(jobs[0].files.val)

    def error_of(action: Callable[..., None], *arguments: Any) -> Exception | None:
        try:
            action(*arguments)
        except Exception as error:
            if len(jobs) == 1 or fabric.world_size > 1:
                raise
            return error
        return None

    with ExitStack() as stack:
        trunk, coder = _Trunk(fabric), stack.enter_context(ThreadPoolExecutor(1))
        going = [_Prediction(job, fabric, coder) for job in jobs]
        for prediction in list(going):
            if error := error_of(prediction.begin, annotations, trunk, stack):
                going.remove(prediction)
                yield prediction.job, error
        title = jobs[0].run.title if len(jobs) == 1 else f"{len(jobs)} methods,"
        for sample in _samples(fabric, annotations, jobs[0], workers, title) if going else ():
            features = None if sample is None else going[0].test_features(sample)
            for prediction in list(going):
                if error := error_of(prediction.add, sample, features):
                    going.remove(prediction)
                    prediction.abandon(error)
                    yield prediction.job, error
            if not going:
                return
            del features  # frees memory before the next image
        for prediction in going:
            error = error_of(prediction.finish)
            yield prediction.job, error or prediction.facts(len(annotations.images))


def _samples(
    fabric: Fabric, annotations: AnnotationFile, job: PredictionJob, workers: int, title: str
) -> Iterator[Sample | None]:
    """The images of this process; None in the last round if only other processes have an image left."""
    data = TestImages(annotations, job.files.val_images, job.run.detector)
    loader = load(
        data,
        batch_size=None,
        sampler=range(fabric.global_rank, len(data), fabric.world_size),
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),
    )
    rounds, shown = range(0, len(data), fabric.world_size), fabric.is_global_zero
    for _ in tracked(rounds, f"images, {title} predict", each=fabric.world_size, shown=shown):
        yield next(loader, None)


class _Trunk:
    """The frozen tensors that detectors with different classifiers share, on the device of this process."""

    def __init__(self, fabric: Fabric) -> None:
        self._device = fabric.device
        self._frozen = FrozenTensors()
        self._settings: dict[str, Any] | None = None

    def shared(self, detector: Detector) -> Detector:
        """The detector in evaluation mode, with the frozen tensors of the first detector.

        Raises ``SharingError`` if these tensors, or the settings that it is built and tested with, differ.
        """
        read = {*ModelSettings.model_fields, *TestingSettings.model_fields}
        settings = {"backend": detector.backend, **detector.settings.model_dump(include=read)}
        self._settings = self._settings or settings
        differing = [name for name, value in settings.items() if value != self._settings[name]]
        if differing:
            raise SharingError("detectors with different settings share nothing", where=", ".join(differing))
        detector.to(self._device).eval()
        self._frozen.share(detector)
        return detector


class _Prediction:
    """A prediction in progress: ``begin``, then ``add`` for every image, then ``finish``."""

    _detector: Detector
    _category_ids: NDArray[np.int64]
    _writer: DetectionWriter | None  # in the first process

    def __init__(self, job: PredictionJob, fabric: Fabric, coder: Executor) -> None:
        self.job, self._fabric, self._coder = job, fabric, coder
        self._file = ExitStack()
        self._coding: Future[DetectionRows | None] | None = None  # of the images before

    def begin(self, annotations: AnnotationFile, trunk: "_Trunk", stack: ExitStack) -> None:
        """Load the detector and open the file, which ``stack`` removes unless ``finish`` is called."""
        self._detector = trunk.shared(self.job.detector(annotations))
        self._category_ids = annotations.category_ids
        writer = self.job.writer(annotations) if self._fabric.is_global_zero else None
        self._writer = self._file.enter_context(writer or nullcontext())
        stack.push(self._file)

    def test_features(self, sample: Sample) -> TestFeatures:
        """The features of an image, equal for all detectors that share the trunk."""
        image, _ = sample.on(self._fabric.device)
        return self._detector.test_features([image])

    def add(self, sample: Sample | None, features: TestFeatures | None) -> None:
        """Detect objects in this process's image, if any. A thread codes their masks while the next image is
        looked at, and then they are written."""
        found: Detections | None = None
        if sample is not None and features is not None:
            (found,) = self._detector.detections(features, [sample.size])
        self._write()
        self._coding = self._coder.submit(self._rows, sample, found)

    def _rows(self, sample: Sample | None, found: Detections | None) -> DetectionRows | None:
        if sample is None or found is None:
            return None
        return detection_rows(sample.image_id, found, self._category_ids)

    def _write(self) -> None:
        """Write the detections of all processes in the images before, if there were any."""
        if self._coding is not None:
            own, self._coding = self._coding.result(), None
            for rows in _gathered(own, self._fabric):
                if self._writer is not None and rows is not None:
                    self._writer.add(*rows)

    def abandon(self, error: Exception) -> None:
        """Remove the file."""
        self._file.__exit__(type(error), error, error.__traceback__)

    def finish(self) -> None:
        """Write the last detections, and move the file to its destination."""
        self._write()
        self._file.close()

    def facts(self, images: int) -> dict[str, Any]:
        """For the record."""
        return {
            "images": images,
            "detections": self._writer.rows if self._writer is not None else None,
            "device": str(self._fabric.device),
            "threads": torch.get_num_threads(),
        }


def detection_rows(image_id: int, found: Detections, category_ids: NDArray[np.int64]) -> DetectionRows:
    """What is written of the detections of an image; ``category_ids`` (C,) are those of the labels."""
    boxes = found.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    return image_id, category_ids[found.labels.numpy()], found.scores.numpy(), boxes.numpy(), found.rles


def _gathered(own: Any, fabric: Fabric) -> list[Any]:
    """The values of all processes, in order, in the first process; empty in the others."""
    if fabric.world_size == 1:
        return [own]
    items = [None] * fabric.world_size if fabric.is_global_zero else None
    distributed.gather_object(own, items)
    return items or []
