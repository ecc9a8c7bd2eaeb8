"""The baseline's loss equals the released ``BBoxHead`` of mmdetection v1."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from methods.softmax.classifier import Softmax


@pytest.mark.parametrize("case", golden_cases("bags", "plain_softmax_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    original = torch.tensor(case["inputs"]["logits"], dtype=torch.float64)
    label = torch.tensor(case["inputs"]["labels"])
    num_classes = original.shape[1] - 1
    logits = original.roll(-1, dims=1).requires_grad_()  # background moves from the first column to the last
    labels = torch.where(label == 0, num_classes, label - 1)
    loss = Softmax(4, statistics_of([5] * num_classes)).loss(logits, labels)["loss_cls"]
    loss.backward()
    expected = case["expected"]
    close = tolerance("bags")
    torch.testing.assert_close(loss.item(), expected["loss_cls"], **close)
    gradient = torch.tensor(expected["grad_logits"], dtype=torch.float64).roll(-1, dims=1)
    torch.testing.assert_close(logits.grad, gradient, **close)
