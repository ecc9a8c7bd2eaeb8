"""Balanced sigmoids: offsets, loss and gradient of the released code."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from benchmark.statistics import StatisticsError, image_frequencies
from methods.balanced_softmax.classifier import BalancedSigmoid

CLOSE = tolerance("balms")


@pytest.mark.parametrize("case", golden_cases("balms", "balanced_sigmoid_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = BalancedSigmoid(4, statistics_of([5] * inputs["num_classes"]))
    classifier.frequency.copy_(torch.tensor(inputs["class_frequency"]))
    logits = torch.tensor(inputs["logits"], dtype=torch.float64).requires_grad_()
    labels = torch.tensor(inputs["labels"])
    torch.testing.assert_close(
        classifier.adjusted(logits, labels).tolist(), expected["adjusted_logits"], **CLOSE
    )
    loss = classifier.loss(logits, labels)["loss_cls"]
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.tolist(), expected["grad_logits"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("balms", "frequency_offsets"))
def test_offsets_of_lvis_equal_the_original(case: dict[str, Any]) -> None:
    counts = case["inputs"]["image_counts"]
    statistics = replace(statistics_of(counts), num_annotated_images=case["inputs"]["images_with_annotation"])
    classifier = BalancedSigmoid(4, statistics)
    zeros = torch.zeros(1, len(counts), dtype=torch.float64)
    offsets = -classifier.adjusted(zeros, torch.tensor([0]))[0]
    torch.testing.assert_close(offsets.tolist(), case["expected"]["offsets"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(offsets.min().item(), case["expected"]["minimum"], **CLOSE)
    torch.testing.assert_close(offsets.max().item(), case["expected"]["maximum"], **CLOSE)
    assert not classifier.adjusted(zeros, torch.tensor([len(counts)])).any()


def test_offsets_are_finite_for_any_counts() -> None:
    """No training image, one, half of them, all of them."""
    statistics = replace(statistics_of([1, 1, 4, 8], [0, 1, 4, 8]), num_annotated_images=8)
    assert image_frequencies(statistics).tolist() == [1 / 8, 1 / 8, 1 / 2, 7.5 / 8]
    assert image_frequencies(statistics).dtype == np.float32
    with pytest.raises(StatisticsError, match="number of annotated images"):
        image_frequencies(replace(statistics, num_annotated_images=None))


@pytest.mark.parametrize("labels", [[], [2], [0], [0, 0, 1], [2, 2]])
def test_edge_cases_are_finite(labels: list[int]) -> None:
    classifier = BalancedSigmoid(4, statistics_of([0, 7]))
    features = torch.randn(len(labels), 4)
    loss = classifier.loss(classifier(features), torch.tensor(labels, dtype=torch.int64))["loss_cls"]
    loss.backward()
    assert loss.isfinite()
    assert (loss == 0) == (not labels)
    assert classifier.linear.weight.grad is not None
    assert classifier.linear.weight.grad.isfinite().all()


def test_only_the_linear_layer_is_saved() -> None:
    assert set(BalancedSigmoid(4, statistics_of([3, 7])).state_dict()) == {"linear.weight", "linear.bias"}
