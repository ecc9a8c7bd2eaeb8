"""The re-weighted cross entropy equals the released one, for each of its tables."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from released_layout import background_last, labels_from_released

from methods.reweight.classifier import Reweighted

TABLES = {
    "cls_weight": "inverse_count",
    "cls_weight_bours": "class_balanced",
    "cls_weight_bf": "class_balanced_with_background",
}


@pytest.mark.parametrize("case", golden_cases("bags", "reweighted_softmax_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    counts, table = inputs["instance_counts"], TABLES[case["hyperparameters"]["weight_table"]]
    classifier = Reweighted(4, statistics_of(counts), weights=table)
    torch.testing.assert_close(classifier.weights, background_last(expected["class_weight"]).float())
    logits = background_last(inputs["logits"]).requires_grad_()
    loss = classifier.loss(logits, labels_from_released(inputs["labels"], len(counts)))["loss_cls"]
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss_cls"], **tolerance("bags"))
    torch.testing.assert_close(logits.grad, background_last(expected["grad_logits"]), **tolerance("bags"))
