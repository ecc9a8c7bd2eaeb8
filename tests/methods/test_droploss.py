"""DropLoss with sigmoids: initial values and scores of the released configuration; losses: test_gol.py."""

from typing import Any

import pytest
import torch
from gol_cases import matrix
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from methods.droploss.classifier import DropLoss


@pytest.mark.parametrize("case", golden_cases("gol", "activation"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    scores = DropLoss(4, statistics_of([5] * logits.shape[1])).scores(logits)
    expected = matrix(case["expected"]["eql_sigmoid_scores_with_dummy"])
    torch.testing.assert_close(scores, expected, **tolerance("gol"))


def test_every_category_starts_at_one_in_a_thousand() -> None:
    classifier = DropLoss(4, statistics_of([5, 500]))
    assert classifier.linear.weight.unique().tolist() == pytest.approx([0.01])
    assert classifier.linear.bias.sigmoid().tolist() == pytest.approx([0.001, 0.001], rel=0.01)
