"""The images of a training, and the input of a step: the images, or their RoI features."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmark.detectors import ChooseRoIs, Detector, RoIBatch, TrainingPass
from benchmark.detectors.frozen import FrozenTensors
from benchmark.images import Sample, Target, TrainImages, load
from benchmark.processes import Team
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Sampler, Stage
from benchmark.sampling import CategoryStream, ImageStream, PairedBatches, StreamBatches, seeded
from benchmark.seeds import derive_seed
from benchmark.training.errors import TrainingError
from benchmark.training.meta import MetaTraining
from benchmark.training.samplers import grouped, image_stream
from benchmark.training.workers import Forward, Part, Workers

RoIs = list[list[RoIBatch]]
"""RoIs by part of the step that this process has, and by head."""

Passes = tuple[list[list[Forward]], dict[str, Tensor]]
"""The forward passes by part of the step that this process has, and what a method reports beside its
losses."""


class Logits(nn.Module):
    """The classifiers applied to their RoI features, as one module for data-parallel wrappers."""

    def __init__(self, classifiers: nn.ModuleList) -> None:
        super().__init__()
        self.classifiers = classifiers

    def forward(self, features: list[Tensor], labels: list[Tensor]) -> TrainingPass:
        """Only the classifiers contribute losses."""
        classified = zip(self.classifiers, features, strict=True)
        return TrainingPass([classifier(x).float() for classifier, x in classified], labels, {}, {})


@dataclass(frozen=True, eq=False)
class Batch:
    """This process's images of an iteration, and as many images for the meta step if there is one."""

    iteration: int
    samples: list[Sample]
    others: list[Sample]


class ImagePass:
    """The images of a stage in training order, distributed over the processes.

    Args:
        fabric: launched.
        data: training images.
        stages: all stages that use the images, each with its recipe. They have the same images, and the same
            images for their meta steps.

    Raises:
        TrainingError: the images cannot be distributed evenly.
    """

    def __init__(self, fabric: Fabric, data: TrainImages, stages: Sequence[tuple[Run, Stage]]) -> None:
        run, stage = stages[0]
        assert stage.schedule is not None
        self._fabric, self._data, self._run, self._stage = fabric, data, run, stage
        self._meta = next(((own.meta, of.plugin_path) for of, own in stages if own.meta is not None), None)
        self.seed = derive_seed(run.seed, "training", stage.name)
        self.workers = Workers(
            stage.schedule.images_per_step,
            stage.images_per_worker,
            fabric.global_rank,
            fabric.world_size,
            where=f"stage {stage.name}",
        )
        self.epoch_length = self._stream().epoch_length

    def batches(self, first: int, last: int, workers: int) -> Iterator[Batch]:
        """This process's images of each iteration from ``first`` to before ``last``."""
        dealt = self._dealt(self._stream(), first, last)
        batches: StreamBatches | PairedBatches = dealt
        if self._meta is not None:
            meta, plugin_path = self._meta
            stream = image_stream(
                meta.sampler, self._data, derive_seed(self.seed, "meta images"), plugin_path
            )
            batches = PairedBatches(dealt, self._dealt(stream, first, last))
        loaded = load(
            self._data,
            batch_sampler=batches,
            collate_fn=list,
            num_workers=workers,
            pin_memory=self._fabric.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed; not from the default generator
        )
        for iteration, samples in enumerate(loaded, start=first):
            own = len(samples) if self._meta is None else len(samples) // 2
            yield Batch(iteration, samples[:own], samples[own:])

    def choice(self) -> "Choice | None":
        """The method's choice among the RoIs, if the stage has one."""
        if self._stage.rois is None:
            return None
        return Choice(
            self._stage, self._run, self._stream(), len(self._data.label_of), self.workers, self.seed
        )

    def _stream(self) -> ImageStream:
        sampler = self._stage.sampler or Sampler()
        return image_stream(sampler, self._data, self.seed, self._run.plugin_path)

    def _dealt(self, stream: ImageStream, first: int, last: int) -> StreamBatches:
        in_order = grouped(stream, self._data, self.workers.size)
        rank, world = self._fabric.global_rank, self._fabric.world_size
        return StreamBatches(in_order, self.workers.batch_size, first, last, rank, world)


class WholeDetector:
    """Forward passes of images through a detector of which all parts may train.

    Args:
        fabric: for the device.
        module: the detector, set up with ``fabric``.
        workers: the distribution of the images.
        at_once: number of images in a pass; None for all of a worker's images in this process.
    """

    def __init__(self, fabric: Fabric, module: nn.Module, workers: Workers, at_once: int | None) -> None:
        self._fabric, self._module, self._workers, self._at_once = fabric, module, workers, at_once

    def of(self, batch: Batch) -> Passes:
        """For this process's images of an iteration."""
        found: list[list[Forward]] = []
        for part in self._workers.parts:
            images, targets = on_device(self._fabric, batch.samples[part.images])
            canvas = self._workers.canvas(images)
            step = self._at_once or len(images)
            cuts = [slice(start, start + step) for start in range(0, len(images), step)]
            found.append([partial(self._module, images[cut], targets[cut], canvas) for cut in cuts])
        return found, {}


class RoIFeatures:
    """The RoIs of an iteration's images with their features, computed once for all classifiers.

    Each method returns them by part of the step that this process has, and by head.

    Args:
        fabric: for the device and the precision.
        detector: computes the features; frozen.
        workers: the distribution of the images.
        choice: the method's choice among the RoIs, if it has one.
    """

    def __init__(
        self, fabric: Fabric, detector: Detector, workers: Workers, choice: "Choice | None" = None
    ) -> None:
        self._fabric, self._detector, self._workers, self._choice = fabric, detector, workers, choice
        self._batch: Batch | None = None
        self._found: dict[str, RoIs] = {}

    def of_step(self, batch: Batch) -> RoIs:
        """The RoIs for the step of the classifier."""
        return self._cached("step", batch, lambda: batch.samples)

    def of_step_redrawn(self, batch: Batch) -> RoIs:
        """RoIs of the same images, sampled with other draws."""
        return self._cached("anew", batch, lambda: [_with_new_draws(sample) for sample in batch.samples])

    def of_meta(self, batch: Batch) -> RoIs:
        """RoIs of the images for the meta step."""
        return self._cached("meta", batch, lambda: batch.others)

    def _cached(self, name: str, batch: Batch, samples: Callable[[], list[Sample]]) -> RoIs:
        if self._batch is not batch:
            self._batch, self._found = batch, {}
        if name not in self._found:
            self._found[name] = self._rois(batch.iteration, samples())
        return self._found[name]

    def _rois(self, iteration: int, samples: list[Sample]) -> RoIs:
        images, targets = on_device(self._fabric, samples)
        parts = self._workers.parts
        with self._fabric.autocast():
            if self._choice is None:
                return self._of_equal_canvases(images, targets)
            found = []
            for part in parts:
                own = images[part.images]
                choose, seed = self._choice.of(iteration, part, len(own), self._fabric.device)
                with seeded(seed):
                    canvas = self._workers.canvas(own)
                    found.append(self._detector.box_features(own, targets[part.images], choose, canvas))
            return found

    def _of_equal_canvases(self, images: list[Tensor], targets: list[Target]) -> RoIs:
        """Of all parts; those with the same padded size in one pass."""
        parts = self._workers.parts
        canvases = [self._workers.canvas(images[part.images]) for part in parts]
        found: dict[int, list[RoIBatch]] = {}
        for canvas in dict.fromkeys(canvases):
            numbers = [number for number, own in enumerate(canvases) if own == canvas]
            chosen = [
                place for number in numbers for place in range(*parts[number].images.indices(len(images)))
            ]
            heads = self._detector.box_features(
                [images[place] for place in chosen], [targets[place] for place in chosen], None, canvas
            )
            size = len(chosen) // len(numbers)
            for position, number in enumerate(numbers):
                found[number] = [head.of_images(position * size, (position + 1) * size) for head in heads]
        return [found[number] for number in range(len(parts))]


class Trunk:
    """The part that detectors with different classifiers share: the frozen tensors and their features.

    Args:
        fabric: for the device.
        images: the images of all detectors.
    """

    def __init__(self, fabric: Fabric, images: ImagePass) -> None:
        self._fabric, self.images = fabric, images
        self._frozen = FrozenTensors()
        self._features: dict[Hashable, RoIFeatures] = {}

    def features(self, detector: Detector) -> RoIFeatures:
        """The features that the detector's classifiers train on. Its other tensors are replaced by those of
        the first detector.

        Raises ``SharingError`` if they differ from those of the first detector.
        """
        if not self._features:
            on_its_device(self._fabric, detector)
        self._frozen.share(detector)
        view, images = detector.features_depend_on, self.images
        if view not in self._features:
            self._features[view] = RoIFeatures(self._fabric, detector, images.workers, images.choice())
        return self._features[view]


class Retraining:
    """Forward passes of RoI features through the classifiers only, after the method's meta step if it has
    one.

    Args:
        module: ``Logits``, set up with a ``Fabric``.
        features: the features to train on.
        meta: the method's meta step.
    """

    def __init__(self, module: nn.Module, features: RoIFeatures, meta: MetaTraining | None) -> None:
        self._module, self._features, self._meta = module, features, meta

    def of(self, batch: Batch) -> Passes:
        """For this process's images of an iteration."""
        rois, measured = self._features.of_step(batch), {}
        if self._meta is not None:
            measured = self._meta.step(rois, self._features.of_meta(batch))
            if self._meta.resample_rois:
                rois = self._features.of_step_redrawn(batch)
        return [
            [partial(self._module, [head.features for head in part], [head.labels for head in part])]
            for part in rois
        ], measured


class Choice:
    """A method's choice among the sampled RoIs of a worker, by the category that each image was drawn for.

    Args:
        stage: a stage with ``rois``.
        run: the recipe; its plug-in has the function.
        stream: the images of the stage; not the loader's stream object, which is ahead.
        num_classes: C.
        workers: the distribution of the images.
        seed: seed of its draws.

    Raises:
        TrainingError: the stream does not draw images for categories.
    """

    def __init__(
        self, stage: Stage, run: Run, stream: ImageStream, num_classes: int, workers: Workers, seed: int
    ) -> None:
        if not isinstance(stream, CategoryStream):
            raise TrainingError(
                "RoIs are chosen by the category that an image was drawn for",
                where=f"stage {stage.name}",
                found=f"sampler {stage.sampler.kind if stage.sampler else 'uniform'}",
                expected="a sampler that draws images for categories: one that makes a CategoryStream",
            )
        self._stream, self._workers, self._seed, self._num_classes = stream, workers, seed, num_classes
        self._function: Callable[..., Any] = load_object(stage.rois or "", run.plugin_path)

    def of(self, iteration: int, part: Part, images: int, device: torch.device) -> tuple[ChooseRoIs, int]:
        """The choice for the worker's images of an iteration, and the seed of its draws."""
        positions = self._workers.positions(part, iteration)
        drawn = torch.tensor([self._stream.label(position) for position in positions], device=device)
        function = partial(self._function, drawn=drawn, num_classes=self._num_classes)
        seed = derive_seed(self._seed, "chosen RoIs", iteration, part.worker)
        return partial(_choose_own, function, self._workers.team, images), seed


def _choose_own(
    function: ChooseRoIs, team: Team, images: int, labels: Tensor, image_numbers: Tensor
) -> Tensor:
    """This process's part of the RoIs that were chosen from all RoIs of its team."""
    everybody = team.gathered(labels)
    numbers = torch.cat(team.gathered(image_numbers + team.rank * images))
    before = sum(len(item) for item in everybody[: team.rank])
    chosen = function(torch.cat(everybody), numbers) - before
    return chosen[(chosen >= 0) & (chosen < len(labels))]


def on_its_device(fabric: Fabric, detector: Detector) -> None:
    """Move a detector to its device, in the memory layout that is fast there."""
    detector.to(fabric.device)
    if fabric.device.type == "cuda":  # the layout in which bfloat16 convolutions are fast
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def on_device(fabric: Fabric, samples: list[Sample]) -> tuple[list[Tensor], list[Target]]:
    """Images and ground truth of samples, on the device."""
    pairs = [sample.on(fabric.device) for sample in samples]
    return [image for image, _ in pairs], [target for _, target in pairs if target is not None]


def _with_new_draws(sample: Sample) -> Sample:
    """The same sample with other draws of RoIs."""
    assert sample.target is not None
    assert sample.target.seed is not None
    target = replace(sample.target, seed=derive_seed(sample.target.seed, "anew"))
    return replace(sample, target=target)
