"""The training split as stages without gradients can read it."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.annotations import AnnotationFile, read_annotations, subset_annotations
from benchmark.detectors import Detector
from benchmark.evaluation import evaluate_detections
from benchmark.images import Target, TestImages, TrainImages, load
from benchmark.inference.detections import DetectionWriter
from benchmark.inference.predict import detection_rows
from benchmark.progress import tracked
from benchmark.recipes.models import Run, Sampler, Stage
from benchmark.seeds import derive_seed
from benchmark.training.samplers import image_stream

Batch = tuple[list[Tensor], list[Target]]
"""Images and ground truth in the form that detectors take."""


@dataclass(frozen=True)
class TrainingBoxes:
    """Every annotation of the training file: labels (A,) in ``0..C-1``, and boxes (A, 4) as x, y, width and
    height, relative to the width and height of their image."""

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A part of the training split, and its annotation file."""

    annotations: AnnotationFile
    file: bytes


class FitData:
    """The training split of a fit stage, read only on demand.

    Args:
        run: the recipe.
        stage: a fit stage of it.
        annotations: of the training split.
        images: its folder of images.
        categories: ids of the categories whose annotations the stage uses; None for all.
        device: device of the images that are returned.
        workers: data loading processes.
    """

    def __init__(
        self,
        run: Run,
        stage: Stage,
        annotations: AnnotationFile,
        images: Path,
        categories: set[int] | None,
        device: torch.device,
        workers: int,
    ) -> None:
        self._run, self._stage, self._annotations, self._folder = run, stage, annotations, images
        self._categories, self._device, self._workers = categories, device, workers
        self._parts: dict[int, _Part] = {}

    def batches(self, size: int = 2) -> Iterator[Batch]:
        """One pass over the images that have annotations, in the order of the file, without augmentation."""
        data = self._images(augment=False)
        yield from self._loaded(data, [(index, index) for index in range(len(data))], size)

    def drawn(self, passes: float, size: int) -> Iterator[Batch]:
        """Images as in a training: drawn by the stage's sampler, shuffled and augmented.

        Args:
            passes: length in multiples of the number of images; the sampler may draw an image more or less
                often.
            size: images of a batch.
        """
        data, run, stage = self._images(augment=True), self._run, self._stage
        seed = derive_seed(run.seed, "fitting", stage.name)
        stream = image_stream(stage.sampler or Sampler(), data, seed, run.plugin_path)
        length = max(1, round(passes * stream.epoch_length))
        yield from self._loaded(data, [(stream[position], position) for position in range(length)], size)

    def boxes(self) -> TrainingBoxes:
        """All annotations, read from the file without opening images."""
        label = {int(id_): number for number, id_ in enumerate(self._annotations.category_ids)}
        sides = {image.id: (image.width, image.height) for image in self._annotations.images}
        used = [
            item
            for item in self._annotations.annotations
            if self._categories is None or item.category_id in self._categories
        ]
        size = np.array([sides[item.image_id] * 2 for item in used], np.float64).reshape(-1, 4)
        corners = np.array([item.bbox for item in used], np.float64).reshape(-1, 4)
        return TrainingBoxes(np.array([label[item.category_id] for item in used], np.int64), corners / size)

    def average_precision(self, detector: Detector, images: int) -> float | None:
        """AP of the detector's present weights on a part of the *training* images, as a fraction; mask AP if
        it predicts masks. None if there is nothing to average.

        The part contains every category of the training images, and is the same in every call.

        Args:
            detector: in evaluation mode, on its device.
            images: number of images; more if that is needed to contain all categories, all if there are
                fewer.
        """
        masks, part = self._run.detector.masks, self._part(min(images, len(self._annotations.images)))
        names = {category.id: category.name for category in part.annotations.categories}
        with tempfile.TemporaryDirectory() as folder:
            truth, found = Path(folder) / "truth.json", Path(folder) / "found.parquet"
            truth.write_bytes(part.file)
            data = TestImages(part.annotations, self._folder, self._run.detector)
            with DetectionWriter(found, names, {}, masks) as writer:
                loader = load(
                    data,
                    batch_size=None,
                    sampler=range(len(data)),
                    num_workers=self._workers,
                    pin_memory=self._device.type == "cuda",
                    generator=torch.Generator(),
                )
                for _, sample in zip(tracked(range(len(data)), "images searched"), loader, strict=True):
                    image, _ = sample.on(self._device)
                    (detections,) = detector.predict([image], [sample.size])
                    writer.add(*detection_rows(sample.image_id, detections, part.annotations.category_ids))
            metrics = evaluate_detections(truth, found).metrics
        return metrics["segm" if masks else "bbox"]["AP"]

    def _part(self, count: int) -> _Part:
        """The part with ``count`` images; cached, because a search needs the same one many times."""
        if count not in self._parts:
            with tempfile.TemporaryDirectory() as folder:
                path, seed = Path(folder) / "part.json", derive_seed(self._run.seed, "search images")
                subset_annotations(self._annotations.path, path, count, seed)
                self._parts[count] = _Part(read_annotations(path), path.read_bytes())
        return self._parts[count]

    def _images(self, *, augment: bool) -> TrainImages:
        return TrainImages(
            self._annotations,
            self._folder,
            self._run.detector,
            derive_seed(self._run.seed, "augmentation", self._stage.name),
            masks=False,
            augment=augment,
            categories=self._categories,
        )

    def _loaded(self, data: TrainImages, keys: list[tuple[int, int]], size: int) -> Iterator[Batch]:
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        loader = load(
            data,
            batch_sampler=batches,
            collate_fn=list,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed; not from the default generator
        )
        for _, samples in zip(tracked(batches, f"batches, {self._stage.name}"), loader, strict=True):
            pairs = [sample.on(self._device) for sample in samples]
            yield [image for image, _ in pairs], [target for _, target in pairs if target is not None]
