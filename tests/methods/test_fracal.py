"""Offsets, dimensions and scores equal the released ones; dimensions come from the annotations alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_where_known, matrix, with_holes
from torch import nn

from benchmark.errors import BenchmarkError
from benchmark.sampling import LabelledImages
from benchmark.statistics import ClassStatistics, counts_and_total, rarity
from benchmark.training import TrainingBoxes
from methods.fracal.classifier import Fractal, offsets
from methods.fracal.stages import dimensions, measure

CLOSE = tolerance("fracal")


def _named(link: str) -> tuple[str, str]:
    """Link and counts of a released name: instances have the ending ``_obj``."""
    name = link.removesuffix("_obj")
    return name, "images" if name == link else "instances"


def _statistics(images: list[int], instances: list[int], num_images: int) -> ClassStatistics:
    return replace(statistics_of(instances, images), num_images=num_images)


@pytest.mark.parametrize("case", golden_cases("fracal", "fracal_frequency_table"))
def test_the_table_of_links_equals_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    images = LabelledImages(inputs["categories_per_image"], inputs["num_classes"])
    assert images.image_counts.tolist() == expected["image_counts"]
    assert images.instance_counts.tolist() == expected["instance_counts"]
    statistics = _statistics(expected["image_counts"], expected["instance_counts"], inputs["num_images"])
    for name, values in expected["values"].items():
        link, counts = _named(name)
        found = torch.as_tensor(rarity(link, *counts_and_total(statistics, counts)))
        check_where_known(found, with_holes(values), CLOSE)


@pytest.mark.parametrize("case", golden_cases("fracal", "fracal_offsets"))
def test_offsets_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    statistics = _statistics(inputs["image_counts"], inputs["instance_counts"], inputs["num_images"])
    for name, values in case["expected"]["offsets"].items():
        link, counts = _named(name)
        classifier = Fractal(4, statistics, link=link, counts=counts)
        check_where_known(classifier.offsets, with_holes(values), CLOSE)


@pytest.mark.parametrize("case", golden_cases("fracal", "fracal_dimension"))
def test_dimensions_equal_the_original(case: dict[str, Any]) -> None:
    inputs, settings = case["inputs"], case["hyperparameters"]
    boxes = TrainingBoxes(np.array(inputs["category_of_box"]), np.array(inputs["boxes"], float))
    found = dimensions(boxes, inputs["num_classes"], settings["variant"], settings["largest_grid"])
    np.testing.assert_allclose(found, case["expected"]["dimension"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("fracal", "fracal_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    statistics = statistics_of([5] * len(inputs["dimension"]))
    classifier = Fractal(4, statistics, strength=case["hyperparameters"]["lambda"])
    classifier.offsets = matrix(inputs["offsets"])
    classifier.dimension.copy_(matrix(inputs["dimension"]))
    scores = classifier.scores(matrix(inputs["logits"]))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(len(scores)).double())


def test_without_both_axes_it_is_softmax() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    classifier = Fractal(4, statistics_of([1, 20, 300]), link=None)
    torch.testing.assert_close(classifier.scores(logits), logits.softmax(dim=1))
    classifier.dimension.fill_(1.5)  # the same for all: only the balance with background
    moved = F.pad(torch.full((3,), -2 * np.log(1.5)), (0, 1)).double()
    torch.testing.assert_close(classifier.scores(logits), (logits + moved).softmax(dim=1))
    assert not offsets(statistics_of([7, 7, 7]), "raw", "instances").any()


class OneClassifier:
    """The part of a detector that the stage uses."""

    def __init__(self, classifier: Fractal) -> None:
        self.classifiers = nn.ModuleList([classifier])


class TrainingSplit:
    """Boxes of three categories: all over the image, in one spot, too few."""

    def boxes(self) -> TrainingBoxes:
        grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2) / 20 + 0.01
        centres = np.concatenate([grid, np.full((400, 2), 0.3), grid[:3]])
        labels = np.repeat([0, 1, 2], [400, 400, 3])
        return TrainingBoxes(labels, np.concatenate([centres, np.zeros((len(centres), 2))], axis=1))


def test_what_is_spread_evenly_has_dimension_two() -> None:
    classifier = Fractal(4, statistics_of([400, 400, 3]))
    detector, data = OneClassifier(classifier), TrainingSplit()
    facts = measure(detector, data, statistics_of([400, 400, 3]))  # type: ignore[arg-type]
    assert classifier.dimension.tolist() == [pytest.approx(2.0), 1.0, 1.0]
    assert facts["largest_dimension"] == pytest.approx(2.0)
    assert "dimension" in classifier.state_dict()
    with pytest.raises(BenchmarkError, match="unknown variant"):
        measure(detector, data, statistics_of([400, 400, 3]), variant="length")  # type: ignore[arg-type]
