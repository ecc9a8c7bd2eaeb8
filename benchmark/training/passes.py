"""What a step passes through the model: images with all losses, or RoI features through the classifiers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmark.detectors import ChooseRoIs, Detector, RoIBatch, TrainingPass
from benchmark.images import Sample, Target
from benchmark.processes import Team
from benchmark.recipes import load_object
from benchmark.recipes.models import Run, Stage
from benchmark.sampling import CategoryStream, ImageStream, seeded
from benchmark.seeds import derive_seed
from benchmark.training.errors import TrainingError
from benchmark.training.meta import MetaTraining
from benchmark.training.workers import Forward, Part, Workers

Passes = tuple[list[list[Forward]], dict[str, Tensor]]
"""The passes of each part of the step that this process has, and what a method reports beside its losses."""


class Logits(nn.Module):
    """The classifiers on their RoI features, as one module for data-parallel wrappers."""

    def __init__(self, classifiers: nn.ModuleList) -> None:
        super().__init__()
        self.classifiers = classifiers

    def forward(self, features: list[Tensor], labels: list[Tensor]) -> TrainingPass:
        """No other losses than those of the classifiers."""
        classified = zip(self.classifiers, features, strict=True)
        return TrainingPass([classifier(x).float() for classifier, x in classified], labels, {}, {})


class WholeDetector:
    """Passes of images through a detector that trains.

    Args:
        fabric: knows the device.
        module: the detector, set up.
        workers: how images are dealt.
        at_once: images of a pass; None for all of a worker's that this process has.
    """

    def __init__(self, fabric: Fabric, module: nn.Module, workers: Workers, at_once: int | None) -> None:
        self._fabric, self._module, self._workers, self._at_once = fabric, module, workers, at_once

    def of(self, iteration: int, samples: list[Sample]) -> Passes:
        """For this process's images of an iteration."""
        found: list[list[Forward]] = []
        for part in self._workers.parts:
            images, targets = on_device(self._fabric, samples[part.images])
            canvas = self._workers.canvas(images)
            step = self._at_once or len(images)
            cuts = [slice(start, start + step) for start in range(0, len(images), step)]
            found.append([partial(self._module, images[cut], targets[cut], canvas) for cut in cuts])
        return found, {}


class Retraining:
    """Passes of RoI features through the classifiers alone, after the method's meta step if it has one.

    Args:
        fabric: knows the device and the precision.
        module: ``Logits``, set up.
        detector: gives the features; frozen.
        workers: how images are dealt.
        meta: the method's meta step, whose images come behind those of the step.
        choice: the method's choice among the RoIs.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        detector: Detector,
        workers: Workers,
        meta: MetaTraining | None,
        choice: "Choice | None",
    ) -> None:
        self._fabric, self._module, self._detector = fabric, module, detector
        self._workers, self._meta, self._choice = workers, meta, choice

    def of(self, iteration: int, samples: list[Sample]) -> Passes:
        """For this process's images of an iteration."""
        count = len(samples) if self._meta is None else len(samples) // 2
        samples, others = samples[:count], samples[count:]
        rois, measured = self._rois(iteration, samples), {}
        if self._meta is not None:
            measured = self._meta.step(rois, self._rois(iteration, others))
            if self._meta.resample_rois:
                rois = self._rois(iteration, [_drawn_anew(sample) for sample in samples])
        return [
            [partial(self._module, [head.features for head in part], [head.labels for head in part])]
            for part in rois
        ], measured

    def _rois(self, iteration: int, samples: list[Sample]) -> list[list[RoIBatch]]:
        """Of each part, and of these for each head."""
        found = []
        for part in self._workers.parts:
            images, targets = on_device(self._fabric, samples[part.images])
            canvas = self._workers.canvas(images)
            with self._fabric.autocast():
                if self._choice is None:
                    found.append(self._detector.box_features(images, targets, None, canvas))
                    continue
                choose, seed = self._choice.of(iteration, part, len(images), self._fabric.device)
                with seeded(seed):
                    found.append(self._detector.box_features(images, targets, choose, canvas))
        return found


class Choice:
    """A method's choice among the sampled RoIs of a worker, given the category that each image is drawn for.

    Args:
        stage: one with ``rois``.
        run: the recipe; its plug-in has the function.
        stream: the images of the stage, for nobody else: the loader's runs ahead.
        num_classes: C.
        workers: how images are dealt.
        seed: of its draws.

    Raises:
        TrainingError: the stream does not draw for categories.
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
        return partial(_own_of, function, self._workers.team, images), seed


def _own_of(function: ChooseRoIs, team: Team, images: int, labels: Tensor, image_numbers: Tensor) -> Tensor:
    """Those of this process among the RoIs that are chosen of all in its team."""
    everybody = team.gathered(labels)
    numbers = torch.cat(team.gathered(image_numbers + team.rank * images))
    before = sum(len(item) for item in everybody[: team.rank])
    chosen = function(torch.cat(everybody), numbers) - before
    return chosen[(chosen >= 0) & (chosen < len(labels))]


def on_device(fabric: Fabric, samples: list[Sample]) -> tuple[list[Tensor], list[Target]]:
    """Images and ground truth of samples."""
    pairs = [sample.on(fabric.device) for sample in samples]
    return [image for image, _ in pairs], [target for _, target in pairs if target is not None]


def _drawn_anew(sample: Sample) -> Sample:
    """The same image with other draws of RoIs."""
    assert sample.target is not None
    assert sample.target.seed is not None
    target = replace(sample.target, seed=derive_seed(sample.target.seed, "anew"))
    return replace(sample, target=target)
