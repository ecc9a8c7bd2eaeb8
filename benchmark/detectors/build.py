"""Build the detector of a resolved recipe, with the classifier of the method."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmark.classifiers import Classifier
from benchmark.detectors import mmcv_ops, torchvision
from benchmark.detectors.initial_weights import load_initial_weights
from benchmark.detectors.interface import POOLED_SIDE, Detector
from benchmark.detectors.two_stage import TwoStageDetector
from benchmark.errors import BenchmarkError, MissingDependencyError
from benchmark.notices import data_warnings
from benchmark.recipes import load_object
from benchmark.recipes.models import Run
from benchmark.sampling import seeded
from benchmark.seeds import derive_seed
from benchmark.statistics import ClassStatistics


def build_detector(
    run: Run,
    statistics: ClassStatistics,
    *,
    initial_weights: bool = True,
    tables: Mapping[str, Any] | None = None,
) -> Detector:
    """The recipe's detector, with its pre-trained weights unless a checkpoint will be loaded anyway.

    Random initial weights depend only on the seed and the detector's settings, so all methods start from the
    same ones. ``tables`` are the tables that the classifier reads (``benchmark.statistics.read_tables``).

    Raises:
        BenchmarkError: the classifier refuses its options, the back end refuses its settings, or is unknown.
        MissingDependencyError: the back end is not installed, or initial weights are missing.
    """
    detector_type = _of_backend(run.detector_name)
    with seeded(derive_seed(run.seed, "classifier weights")):
        classifiers = [build_classifier(run, statistics, tables) for _ in range(run.detector.box_head_count)]
    with seeded(derive_seed(run.seed, "detector weights")):
        detector = detector_type(run.detector, classifiers, run.test)
    if initial_weights:
        load_initial_weights(detector)
    return detector


def _of_backend(detector_name: str) -> type[TwoStageDetector]:
    """The class of the back end in a detector's name; other frameworks are not imported."""
    backend, _, _ = detector_name.partition("/")
    if backend == "torchvision":
        return torchvision.TorchvisionDetector
    if backend == "mmdet":
        mmcv_ops.provide_operators()
        from benchmark.detectors.mmdet import MMDetDetector  # an extra, and seconds to import

        return MMDetDetector
    if backend != "detectron2":
        raise BenchmarkError(
            f"unknown back end '{backend}'", where=detector_name, expected="torchvision, mmdet or detectron2"
        )
    if importlib.util.find_spec("detectron2") is None:
        raise MissingDependencyError(
            "back end 'detectron2' needs the package detectron2",
            remedy="it is on no package registry; CONTRIBUTING.md has the line that installs it from source",
        )
    from benchmark.detectors.detectron2 import Detectron2Detector

    return Detectron2Detector


def parameters_of(run: Run) -> int:
    """How many numbers a checkpoint of the recipe holds, including buffers.

    Builds the model to count them, without memory if its classifier allows this.
    """
    ids = np.arange(1, run.dataset.categories + 1)
    names = tuple(str(number) for number in ids)
    images = len(ids)
    statistics = ClassStatistics(ids, names, ("f",) * images, ids, ids, images, images)
    with data_warnings():  # these counts are not those of data
        try:
            with torch.device("meta"):
                detector = build_detector(run, statistics, initial_weights=False)
        except Exception:  # a classifier whose constructor reads values of tensors
            detector = build_detector(run, statistics, initial_weights=False)
    return sum(value.numel() for value in detector.state_dict().values())


def build_classifier(
    run: Run, statistics: ClassStatistics, tables: Mapping[str, Any] | None = None
) -> Classifier:
    """The recipe's classifier for features of its detector."""
    classifier_type = load_object(run.classifier, run.plugin_path)
    given: dict[str, Any] = dict(tables or {})
    if getattr(classifier_type, "takes_pooled", False):
        given["pooled_features"] = run.detector.fpn_channels * POOLED_SIDE**2
    try:
        classifier = classifier_type(run.detector.box_head_width, statistics, **given, **run.options)
    except TypeError as error:
        raise BenchmarkError(
            f"method '{run.method}' cannot build its classifier",
            where=run.classifier,
            found=error,
            remedy="compare the options in method.yaml with the classifier's arguments",
        ) from error
    if not isinstance(classifier, Classifier):
        raise BenchmarkError(
            f"method '{run.method}' names a class that is not a classifier",
            where=run.classifier,
            expected="a subclass of benchmark.classifiers.Classifier",
        )
    return classifier
