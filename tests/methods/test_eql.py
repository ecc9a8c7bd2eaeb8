"""Equalization loss equals the code released with GOL, under both links."""

from typing import Any

import pytest
import torch
from gol_cases import logits_and_labels, matrix, statistics_with
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from benchmark.classifiers import NormedLinear, foreground_weights, one_hot
from methods.eql.classifier import Equalization, GumbelEqualization

CLOSE = tolerance("gol")
METHODS = {"gumbel": GumbelEqualization, "sigmoid": Equalization}


@pytest.mark.parametrize("case", golden_cases("gol", "eql"))
def test_loss_weights_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    settings, expected = case["hyperparameters"], case["expected"]
    statistics = statistics_with(case["inputs"]["class_frequency"])
    classifier = METHODS[settings["activation"]](4, statistics, settings["lambda_"])
    logits, labels = logits_and_labels(case)
    targets = one_hot(labels, classifier.num_classes, torch.float64)
    assert foreground_weights(targets, classifier.infrequent).tolist() == expected["element_weights"]
    loss = settings["loss_weight"] * classifier.loss(logits, labels)["loss_cls"]
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    torch.testing.assert_close(logits.grad, matrix(expected["grad_logits"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("gol", "activation"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    statistics = statistics_of([5] * logits.shape[1])
    for classifier, key in (
        (Equalization(4, statistics), "eql_sigmoid_scores_with_dummy"),
        (GumbelEqualization(4, statistics), "droploss_gumbel_scores_with_dummy"),
    ):
        torch.testing.assert_close(classifier.scores(logits), matrix(case["expected"][key]), **CLOSE)


def test_logits_may_be_scaled_cosines() -> None:
    classifier = GumbelEqualization(8, statistics_of([5, 500]), cosine={"temperature": 5.0})
    assert isinstance(classifier.linear, NormedLinear)
    logits = classifier(torch.randn(20, 8) * 100)
    assert logits.shape == (20, 2)
    assert (logits + 2).abs().max().item() <= 5.01
