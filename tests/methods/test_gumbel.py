"""Gumbel cross entropy and the class-relative links equal the released code."""

from typing import Any

import pytest
import torch
from gol_cases import element_weights, logits_and_labels, matrix
from golden_cases import FOLDER, OWN, golden_cases, tolerance
from helpers import statistics_of
from torch import Tensor

from benchmark.classifiers import one_hot
from methods.gumbel.classifier import ClassRelative, GumbelCrossEntropy

CLOSE = tolerance("gol")


def _reduced(case: dict[str, Any], classifier: GumbelCrossEntropy, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss under the case's row weights and reduction, from the classifier's element losses."""
    targets = one_hot(labels, logits.shape[1], logits.dtype)
    losses = element_weights(case, labels) * classifier.element_losses(logits, targets)
    reduction, factor = case["hyperparameters"].get("reduction", "mean"), case["inputs"]["avg_factor"]
    if reduction == "mean":
        losses = losses.mean() if factor is None else losses.sum() / factor
    elif reduction == "sum":
        losses = losses.sum()
    return case["hyperparameters"].get("loss_weight", 1.0) * losses.clamp(max=classifier.loss_limit)


def _as_in_the_benchmark(case: dict[str, Any]) -> bool:
    """Whether all rows have weight 1 and the loss is divided by their number, as in a detector."""
    inputs, settings = case["inputs"], case["hyperparameters"]
    plain = settings.get("reduction", "mean") == "mean" and settings.get("loss_weight", 1.0) == 1
    weights = inputs["label_weights"] or [1.0]
    return (
        plain
        and set(weights) == {1.0}
        and min(inputs["labels"]) >= 0
        and inputs["avg_factor"] == len(inputs["labels"])
    )


def _check(case: dict[str, Any], classifier: GumbelCrossEntropy) -> None:
    logits, labels = logits_and_labels(case)
    loss = _reduced(case, classifier, logits, labels)
    torch.testing.assert_close(loss.detach(), matrix(case["expected"]["loss"]), **CLOSE)
    upstream = case["inputs"].get("upstream_grad")
    loss.backward(None if upstream is None else matrix(upstream))
    gradient = matrix(case["expected"]["grad_logits"])
    torch.testing.assert_close(logits.grad, gradient, **CLOSE)
    if _as_in_the_benchmark(case):
        logits.grad = None
        own = classifier.loss(logits, labels)["loss_cls"]
        own.backward()
        torch.testing.assert_close(own.item(), case["expected"]["loss"], **CLOSE)
        torch.testing.assert_close(logits.grad, gradient, **CLOSE)


@pytest.mark.parametrize("case", golden_cases("gol", "gumbel_ce"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    statistics = statistics_of([5] * case["inputs"]["num_foreground_classes"])
    _check(case, GumbelCrossEntropy(4, statistics, loss_limit=case["hyperparameters"]["loss_clamp_max"]))


@pytest.mark.skipif(FOLDER != OWN, reason="says something about the cases of tests/golden")
def test_most_golden_cases_are_checked_through_the_classifier() -> None:
    cases = [parameter.values[0] for parameter in golden_cases("gol", "gumbel_ce")]
    assert sum(_as_in_the_benchmark(case) for case in cases) >= 7


def _class_relative(frequent: list[bool], **options: Any) -> ClassRelative:
    """A classifier whose given categories are frequent; 101 images are frequent, 100 are not."""
    counts = [101 if is_frequent else 100 for is_frequent in frequent]
    return ClassRelative(4, statistics_of(counts), **options)


@pytest.mark.parametrize("case", golden_cases("gol", "class_relative_ce"))
def test_class_relative_loss_gradient_and_scores_equal_the_original(case: dict[str, Any]) -> None:
    mask = case["inputs"]["frequent_mask"]
    assert not mask[-1]  # background
    classifier = _class_relative(mask[:-1], loss_limit=case["hyperparameters"]["loss_clamp_max"])
    _check(case, classifier)
    scores = classifier.scores(logits_and_labels(case)[0].detach())
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("gol", "activation"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits, expected = matrix(case["inputs"]["logits"]), case["expected"]
    plain = GumbelCrossEntropy(4, statistics_of([5] * (logits.shape[1] - 1)))
    torch.testing.assert_close(plain.scores(logits), matrix(expected["gumbel_scores"]), **CLOSE)
    relative = _class_relative(case["inputs"]["frequent_mask"][:-1])
    torch.testing.assert_close(relative.scores(logits), matrix(expected["class_relative_scores"]), **CLOSE)


def test_every_category_starts_at_the_same_low_score() -> None:
    for classifier, score in (
        (GumbelCrossEntropy(4, statistics_of([5, 500])), 6.2e-4),
        (_class_relative([False, False]), 1.9e-9),
    ):
        assert classifier.linear.weight.unique().tolist() == pytest.approx([0.001])
        initial = classifier.scores(classifier.linear.bias.detach()[None])
        assert initial.tolist() == [pytest.approx([score] * 3, rel=0.02)]
