"""Normalised weights and the choice between two heads equal the released scripts."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from released_layout import background_last

from benchmark.classifiers import CategoricalClassifier
from methods.tau_norm.classifier import TauNormSelect, select_scores, tau_normalised
from methods.tau_norm.stages import normalise, normalise_copy

CLOSE = tolerance("bags")


class OneClassifier:
    """The part of a detector that the transforms use."""

    def __init__(self, classifier: CategoricalClassifier) -> None:
        self.classifiers = torch.nn.ModuleList([classifier])


@pytest.mark.parametrize("case", golden_cases("bags", "tau_norm"))
def test_weights_equal_the_original(case: dict[str, Any]) -> None:
    """Through the stages' functions, rows in our order (background last)."""
    inputs, tau = case["inputs"], case["hyperparameters"]["tau"]
    weight = torch.tensor(inputs["weight"], dtype=torch.float64).roll(-1, dims=0)
    expected = torch.tensor(case["expected"]["weight"], dtype=torch.float64).roll(-1, dims=0)
    statistics = statistics_of([5] * (len(weight) - 1))
    every_row = case["hyperparameters"]["rows"] == "all_rows"
    new = CategoricalClassifier if every_row else TauNormSelect
    classifier = new(weight.shape[1], statistics).double()
    with torch.no_grad():
        classifier.linear.weight.copy_(weight)
        classifier.linear.bias.copy_(background_last(inputs["bias"]))
        (normalise if every_row else normalise_copy)(OneClassifier(classifier), statistics, tau)
    layer = classifier.linear if every_row else classifier.copy
    torch.testing.assert_close(layer.weight.data, expected, **CLOSE)
    torch.testing.assert_close(layer.bias.data, background_last(case["expected"]["bias"]), **CLOSE)
    if not every_row:
        assert torch.equal(classifier.linear.weight.data, weight)


def test_a_row_of_zeros_and_tau_zero_change_nothing() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert tau_normalised(weight, 1.0).tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert torch.equal(tau_normalised(weight, 0.0), weight)


@pytest.mark.parametrize("case", golden_cases("bags", "tau_norm_select"))
def test_the_choice_of_rows_equals_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    few = torch.tensor(inputs["instance_counts"]) < case["hyperparameters"]["tail_threshold"]
    original = background_last(inputs["scores_original"])
    scores = select_scores(original, background_last(inputs["scores_normalised"]), few)
    torch.testing.assert_close(scores, background_last(expected["scores"]), **CLOSE)
    assert (scores != original).any(dim=1).int().tolist() == expected["rows_replaced"]
