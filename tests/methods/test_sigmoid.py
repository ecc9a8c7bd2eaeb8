"""The base model of BALMS: losses, scores and initial bias of the released code."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from methods.sigmoid.classifier import Sigmoid

CLOSE = tolerance("balms")


@pytest.mark.parametrize("case", golden_cases("balms", "sigmoid_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    num_classes = case["inputs"]["num_classes"]
    logits = (
        torch.tensor(case["inputs"]["logits"], dtype=torch.float64).reshape(-1, num_classes).requires_grad_()
    )
    labels = torch.tensor(case["inputs"]["labels"], dtype=torch.int64)
    loss = Sigmoid(4, statistics_of([5] * num_classes)).loss(logits, labels)["loss_cls"]
    loss.backward()
    torch.testing.assert_close(loss.item(), case["expected"]["loss"], **CLOSE)
    gradient = torch.tensor(case["expected"]["grad_logits"], dtype=torch.float64).reshape(logits.shape)
    torch.testing.assert_close(logits.grad, gradient, **CLOSE)


@pytest.mark.parametrize("case", golden_cases("balms", "predict_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    scores = Sigmoid(4, statistics_of([5] * logits.shape[1])).scores(logits)
    expected = [row for image in case["expected"]["scores_per_image"] for row in image]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("balms", "classifier_init"))
def test_initial_bias_equals_the_original(case: dict[str, Any]) -> None:
    torch.manual_seed(0)
    num_classes = case["inputs"]["num_classes"]
    classifier = Sigmoid(4096, statistics_of([5] * num_classes), case["inputs"]["prior_probability"])
    assert classifier.linear.out_features == case["expected"]["output_dim"]
    torch.testing.assert_close(classifier.linear.bias.tolist(), case["expected"]["bias"], rtol=1e-6, atol=0)
    std = classifier.linear.weight.std().item()
    assert std == pytest.approx(case["expected"]["weight_std_target"], rel=0.05)
