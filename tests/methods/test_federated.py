"""Kept categories, loss, gradient, draw and scores equal CenterNet2's federated loss."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from later_cases import labels_of, matrix

from benchmark.classifiers import CategoricalClassifier
from methods.federated.classifier import Federated

CLOSE = tolerance("federated")


def _classifier(case: dict[str, Any], **options: Any) -> Federated:
    settings = {key: case["hyperparameters"][key] for key in ("num_categories", "frequency_power")}
    return Federated(4, statistics_of(case["inputs"]["image_counts"]), **settings, **options)


def _without_background(values: Any, categories: int) -> torch.Tensor:
    """Logits (N, C) without the last column, which is not trained and which our classifier does not have."""
    return matrix(values, categories + 1)[:, :categories]


@pytest.mark.parametrize("case", golden_cases("federated", "federated_loss"))
def test_kept_categories_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(case)
    labels, drawn = labels_of(inputs), torch.tensor(inputs["drawn_categories"], dtype=torch.int64)
    logits = _without_background(inputs["logits"], classifier.num_classes).requires_grad_()
    loss = classifier.federated_loss(logits, labels, drawn)
    (gradient,) = torch.autograd.grad(loss, logits)
    if "kept" in expected:
        assert classifier.kept(labels, drawn).int().tolist() == expected["kept"]
        assert classifier.draw(labels)[1] == len(drawn)
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    golden = _without_background(expected["grad_logits"], classifier.num_classes)
    torch.testing.assert_close(gradient, golden, **CLOSE)


@pytest.mark.parametrize("case", golden_cases("federated", "federated_probabilities"))
def test_categories_are_drawn_with_the_original_probabilities(case: dict[str, Any]) -> None:
    probabilities, count = _classifier(case).draw(labels_of(case["inputs"]))
    assert count == case["expected"]["drawn"]
    golden = torch.tensor(case["expected"]["probabilities"])
    torch.testing.assert_close(probabilities, golden, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", golden_cases("federated", "federated_softmax_loss"))
def test_the_original_softmax_form_is_cross_entropy(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"]).requires_grad_()
    classifier = CategoricalClassifier(4, statistics_of([5] * (logits.shape[1] - 1)))
    loss = classifier.loss(logits, labels_of(case["inputs"]))["loss_cls"]
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), case["expected"]["loss"], **CLOSE)
    torch.testing.assert_close(gradient, matrix(case["expected"]["grad_logits"]), **CLOSE)


def _check_scores(heads: list[torch.Tensor], case: dict[str, Any]) -> None:
    categories = heads[0].shape[1] - 1
    objectness = matrix(case["inputs"]["proposal_scores"])
    for multiplied, key in ((False, "scores"), (True, "scores_with_proposals")):
        classifier = Federated(4, statistics_of([5] * categories), objectness=multiplied)
        scores = classifier.detection_scores([head[:, :-1] for head in heads], objectness)
        golden = _without_background(case["expected"][key], categories)
        torch.testing.assert_close(scores[:, :-1], golden, **CLOSE)
        assert not scores[:, -1].any()


@pytest.mark.parametrize("case", golden_cases("federated", "federated_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    _check_scores([matrix(case["inputs"]["logits"])], case)


@pytest.mark.parametrize("case", golden_cases("federated", "federated_scores_stages"))
def test_a_cascade_averages_probabilities_as_the_original(case: dict[str, Any]) -> None:
    _check_scores([matrix(head) for head in case["inputs"]["logits_per_stage"]], case)


@pytest.mark.parametrize("case", golden_cases("federated", "classifier_init"))
def test_initial_bias_equals_the_original(case: dict[str, Any]) -> None:
    prior = case["hyperparameters"]["prior_probability"]
    classifier = Federated(4, statistics_of([5] * case["inputs"]["num_classes"]), prior)
    assert classifier.linear.out_features == case["expected"]["outputs"] - 1
    bias = torch.full_like(classifier.linear.bias, case["expected"]["bias"])
    torch.testing.assert_close(classifier.linear.bias.data, bias)


@given(labels=st.lists(st.integers(0, 20), max_size=30), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_invariants_of_any_batch(labels: list[int], seed: int) -> None:
    """Categories that occur are trained, those without images only then; all others have no gradient."""
    torch.manual_seed(seed)
    classifier = Federated(3, statistics_of([0, *range(1, 20)]), num_categories=8)
    y = torch.tensor(labels, dtype=torch.int64)
    logits = torch.randn(len(labels), 20, requires_grad=True)
    classifier.loss(logits, y)["loss_cls"].backward()
    assert logits.grad is not None
    trained = {int(j) for j in logits.grad.any(dim=0).nonzero()}
    occurring = set(labels)
    if labels:
        assert occurring - {20} <= trained
        assert len(trained) == max(8 - (20 in occurring), len(occurring - {20}))
        assert 0 in occurring or 0 not in trained


def test_with_more_places_than_categories_it_is_the_plain_sum_of_sigmoids() -> None:
    classifier = Federated(3, statistics_of([1, 2, 3]), num_categories=50)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 3, 3, 3, 3])
    targets = torch.nn.functional.one_hot(labels, 4)[:, :3].float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 6
    torch.testing.assert_close(classifier.loss(logits, labels)["loss_cls"], plain)
