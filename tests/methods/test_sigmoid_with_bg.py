"""The sigmoid baseline of the GOL paper, with both readings of its scores."""

from typing import Any

import pytest
import torch
from gol_cases import element_weights, logits_and_labels, matrix
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from benchmark.classifiers import one_hot, sigmoid_loss
from methods.sigmoid_with_bg.classifier import SigmoidWithBackground

CLOSE = tolerance("gol")


@pytest.mark.parametrize("case", golden_cases("gol", "sigmoid_baseline"))
def test_loss_gradient_and_scores_equal_the_original(case: dict[str, Any]) -> None:
    """The case's row weights are applied here; with equal weights the classifier's loss is that sum."""
    expected, statistics = case["expected"], statistics_of([5] * case["inputs"]["num_foreground_classes"])
    logits, labels = logits_and_labels(case)
    losses = sigmoid_loss(logits, one_hot(labels, logits.shape[1], logits.dtype))
    loss = (element_weights(case, labels) * losses).sum() / case["inputs"]["avg_factor"]
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    torch.testing.assert_close(logits.grad, matrix(expected["grad_logits"]), **CLOSE)
    classifier = SigmoidWithBackground(4, statistics)
    own = classifier.loss(logits, labels)["loss_cls"]
    torch.testing.assert_close(own, losses.sum() / len(labels))
    released = SigmoidWithBackground(4, statistics, score_link="softmax")
    for reading, key in ((classifier, "test_scores_sigmoid"), (released, "test_scores_as_released_softmax")):
        torch.testing.assert_close(reading.scores(logits.detach()), matrix(expected[key]), **CLOSE)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(TypeError, match="score_link"):
        SigmoidWithBackground(4, statistics_of([5]), score_link="none")  # type: ignore[arg-type]
