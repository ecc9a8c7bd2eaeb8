"""Weights, loss, gradient and scores equal the released inverse image frequency."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance, values_of_formula
from helpers import statistics_of
from later_cases import check_where_known, labels_of, matrix, with_holes
from torch import Tensor

from benchmark.classifiers import NormedLinear
from benchmark.statistics import ClassStatistics, StatisticsError
from methods.iif.classifier import InverseImageFrequency

CLOSE = tolerance("iif")


def _statistics(inputs: dict[str, Any]) -> ClassStatistics:
    counts = inputs.get("instance_counts") or inputs["image_counts"]
    images = inputs.get("image_counts", [1] * len(counts))
    return replace(statistics_of(counts, images), num_images=inputs["num_images"])


def _named(link: str) -> dict[str, str]:
    """Options of a released name: instances have the ending ``_obj``."""
    name = link.removesuffix("_obj")
    return {"link": name, "counts": "images" if name == link else "instances"}


@pytest.mark.parametrize("case", golden_cases("iif", "iif_weights"))
def test_weights_of_every_link_equal_the_original(case: dict[str, Any]) -> None:
    for link, weights in case["expected"]["weights"].items():
        classifier = InverseImageFrequency(4, _statistics(case["inputs"]), **_named(link))
        background = case["hyperparameters"]["background_weight"]
        check_where_known(classifier.weights, with_holes([*weights, background]), CLOSE)


def _loss(
    classifier: InverseImageFrequency, logits: Tensor, labels: Tensor, inputs: dict[str, Any]
) -> Tensor:
    """With the row weights and the divisor of the case; the classifier's own where all rows count once."""
    weights = (
        matrix(inputs["label_weights"]) if "label_weights" in inputs else torch.ones(len(labels)).double()
    )
    divisor = inputs.get("normaliser", len(labels))
    loss = (weights * F.cross_entropy(classifier.weighted(logits), labels, reduction="none")).sum() / divisor
    if (weights == 1).all() and divisor == len(labels):
        torch.testing.assert_close(classifier.loss(logits, labels)["loss_cls"], loss)
    return loss


@pytest.mark.parametrize("case", golden_cases("iif", "iif_loss"))
def test_loss_gradient_and_scores_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = InverseImageFrequency(4, statistics_of([5] * len(inputs["weights"])))
    classifier.weights = matrix([*inputs["weights"], case["hyperparameters"]["background_weight"]])
    logits = matrix(inputs["logits"]).requires_grad_()
    loss = _loss(classifier, logits, labels_of(inputs), inputs)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    torch.testing.assert_close(gradient, matrix(expected["grad_logits"]), **CLOSE)
    torch.testing.assert_close(classifier.scores(logits.detach()), matrix(expected["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("iif", "iif_loss_real"))
def test_loss_gradient_and_scores_at_the_size_of_lvis(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = InverseImageFrequency(4, _statistics(inputs), **_named(case["hyperparameters"]["link"]))
    values = values_of_formula(inputs["logits_formula"], inputs["rows"], inputs["columns"])
    logits = torch.from_numpy(values).requires_grad_()
    loss = _loss(classifier, logits, labels_of(inputs), inputs)
    (gradient,) = torch.autograd.grad(loss, logits)
    columns = expected["columns"]
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    torch.testing.assert_close(gradient[:, columns], matrix(expected["grad_logits"]), **CLOSE)
    scores = classifier.scores(logits.detach())[:, columns]
    torch.testing.assert_close(scores, matrix(expected["scores"]), **CLOSE)
    first = expected["weights_of_first_ten"]
    torch.testing.assert_close(classifier.weights[: len(first)], matrix(first), **CLOSE)


@pytest.mark.parametrize("link", ["raw", "smooth", "prob", "normit", "gombit", "base2", "base10"])
def test_the_rarer_the_larger_the_weight(link: str) -> None:
    """Also with a category in no image, and with one in every image."""
    inputs = {"image_counts": [0, 1, 20, 350, 400], "num_images": 400}
    weights = InverseImageFrequency(4, _statistics(inputs), link=link).weights
    assert weights.isfinite().all()
    assert weights[0] == weights[1]
    assert (weights[1:-1].diff() < 0).all()
    assert weights[-1] == 1


def test_cosines_and_unknown_names() -> None:
    inputs = {"image_counts": [3, 4], "num_images": 9}
    cosine = InverseImageFrequency(4, _statistics(inputs), cosine={"temperature": 8.0})
    assert isinstance(cosine.linear, NormedLinear)
    for wrong in ({"link": "base3"}, {"counts": "boxes"}):
        with pytest.raises(StatisticsError, match="unknown"):
            InverseImageFrequency(4, _statistics(inputs), **wrong)
