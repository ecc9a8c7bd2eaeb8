"""Weights, loss, gradient, state and scores equal the released EQL v2 over many steps and two processes."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss, labels_of, matrix
from torch import Tensor

from methods.eqlv2.classifier import GradientBalance

CLOSE = tolerance("eqlv2")


def _classifier(case: dict[str, Any]) -> GradientBalance:
    settings = {key: case["hyperparameters"][key] for key in ("gamma", "mu", "alpha")}
    return GradientBalance(4, statistics_of([5] * case["inputs"]["num_classes"]), **settings).double()


def _one_worker(value: Tensor) -> Tensor:
    return value


def _check_weights(classifier: GradientBalance, expected: dict[str, Any]) -> None:
    for found, name in zip(classifier.weights(), ("neg_weight", "pos_weight"), strict=True):
        torch.testing.assert_close(found, matrix(expected[name]), **CLOSE)


def _check_state(classifier: GradientBalance, expected: dict[str, Any]) -> None:
    for found, name in (
        (classifier.positive.value, "pos_grad"),
        (classifier.negative.value, "neg_grad"),
        (classifier.ratio(), "ratio"),
    ):
        torch.testing.assert_close(found, matrix(expected[name]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("eqlv2", "eqlv2_iterations"))
def test_every_step_equals_the_original(case: dict[str, Any]) -> None:
    classifier, start = _classifier(case), case["inputs"]["initial_state"]
    if start is not None:
        classifier.positive.value.copy_(matrix(start["pos_grad"]))
        classifier.negative.value.copy_(matrix(start["neg_grad"]))
        classifier.rois.value.fill_(any(start["pos_grad"] + start["neg_grad"]))
    for inputs, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        _check_weights(classifier, expected)
        logits = matrix(inputs["logits"], classifier.num_classes + 1).requires_grad_()
        losses = classifier.loss(logits, labels_of(inputs))
        check_loss(losses, logits, expected, CLOSE, case["hyperparameters"]["loss_weight"])
        classifier.finish_step(_one_worker)
        _check_state(classifier, expected)


@pytest.mark.parametrize("case", golden_cases("eqlv2", "eqlv2_two_processes"))
def test_two_workers_equal_two_processes_of_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case)
    for inputs, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        _check_weights(classifier, expected)
        for worker, logits in enumerate(map(matrix, inputs["logits_per_process"])):
            losses = classifier.loss(
                logits.requires_grad_(), torch.tensor(inputs["labels_per_process"][worker])
            )
            own = {
                "loss": expected["loss_per_process"][worker],
                "grad_logits": expected["grad_logits_per_process"][worker],
            }
            check_loss(losses, logits, own, CLOSE, case["hyperparameters"]["loss_weight"])
        classifier.finish_step(_one_worker)
        _check_state(classifier, expected)


@pytest.mark.parametrize("case", golden_cases("eqlv2", "eqlv2_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    statistics = statistics_of([5] * (logits.shape[1] - 1))
    for objectness, key in ((True, "scores"), (False, "scores_without_objectness")):
        scores = GradientBalance(4, statistics, objectness=objectness).scores(logits)
        torch.testing.assert_close(scores, matrix(case["expected"][key]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("eqlv2", "eqlv2_scores_stages"))
def test_a_cascade_scores_the_mean_of_its_logits(case: dict[str, Any]) -> None:
    heads = [matrix(head) for head in case["inputs"]["logits_per_stage"]]
    classifier = GradientBalance(4, statistics_of([5] * (heads[0].shape[1] - 1)))
    scores = classifier.detection_scores(heads, torch.rand(len(heads[0])))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("eqlv2", "classifier_init"))
def test_initial_values_equal_the_original(case: dict[str, Any]) -> None:
    prior = case["hyperparameters"]["prior_probability"]
    classifier = GradientBalance(4, statistics_of([5] * case["inputs"]["num_classes"]), prior)
    assert classifier.linear.out_features == case["expected"]["outputs"]
    bias = torch.full_like(classifier.linear.bias, case["expected"]["bias"])
    torch.testing.assert_close(classifier.linear.bias.data, bias)


def test_weights_of_a_category_share_one_sum() -> None:
    """q + alpha g = 1 + alpha in every state; a step without RoIs keeps the initial state."""
    classifier = GradientBalance(4, statistics_of([5] * 6)).double()
    classifier.loss(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    classifier.finish_step(_one_worker)
    assert classifier.weights()[0].tolist() == [1.0] * 7
    for seed in range(3):
        logits = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        classifier.loss(logits, torch.arange(20) % 7)
        classifier.finish_step(_one_worker)
        negative, positive = classifier.weights()
        torch.testing.assert_close((positive + 4 * negative)[:-1], torch.full((6,), 5.0, dtype=torch.float64))
        assert (negative[-1], positive[-1]) == (1, 1)
        assert (negative[:-1] < 1).any()
