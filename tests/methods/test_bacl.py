"""Loss, gradient, confusion matrix and scores equal the released FCBL over several calls."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss, labels_of, matrix
from torch import Tensor

from methods.bacl.classifier import BalancedForeground

CLOSE = tolerance("bacl")


def _one_worker(value: Tensor) -> Tensor:
    return value


def _classifier(categories: int, settings: dict[str, Any]) -> BalancedForeground:
    """Without re-weighting every wrong category counts, as with threshold 0."""
    threshold = settings["probability_threshold"] if settings["reweight"] else 0.0
    return BalancedForeground(4, statistics_of([5] * categories), settings["alpha"], threshold).double()


@pytest.mark.parametrize("case", golden_cases("bacl", "fcbl_loss"))
def test_calls_in_a_row_equal_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case["inputs"]["num_classes"], case["hyperparameters"])
    for inputs, expected in zip(case["inputs"]["calls"], case["expected"]["calls"], strict=True):
        logits = matrix(inputs["logits"]).requires_grad_()
        check_loss(classifier.loss(logits, labels_of(inputs)), logits, expected, CLOSE)
        classifier.finish_step(_one_worker)
        for found, name in (
            (classifier.predictions.value, "confusion_sums"),
            (classifier.foreground.value, "foreground_counts"),
        ):
            torch.testing.assert_close(found, matrix(expected[name]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("bacl", "fcbl_loss_given"))
def test_a_given_matrix_makes_the_margins_of_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(len(inputs["confusion_sums"]), case["hyperparameters"])
    classifier.predictions.value.copy_(matrix(inputs["confusion_sums"]))
    classifier.foreground.value.copy_(matrix(inputs["foreground_counts"]))
    torch.testing.assert_close(classifier.confusion().diagonal(), matrix(expected["correct_share"]), **CLOSE)
    logits = matrix(inputs["logits"]).requires_grad_()
    check_loss(classifier.loss(logits, labels_of(inputs)), logits, expected, CLOSE)


@pytest.mark.parametrize("case", golden_cases("bacl", "fcbl_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    scores = BalancedForeground(4, statistics_of([5] * (logits.shape[1] - 1))).scores(logits)
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


def _confused(**options: float) -> tuple[BalancedForeground, Tensor, Tensor]:
    """A classifier after a step, and rows of all labels."""
    classifier = BalancedForeground(4, statistics_of([5] * 4), **options).double()
    generator = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(20, 5, dtype=torch.float64, generator=generator), torch.arange(20) % 5
    classifier.loss(logits, labels)
    classifier.finish_step(_one_worker)
    return classifier, logits, labels


def test_the_margin_of_a_pair_is_one_number_with_two_signs() -> None:
    classifier, _, _ = _confused()
    margins = classifier.margins(torch.arange(5))
    assert margins[:4, :4].abs().sum() > 1
    torch.testing.assert_close(margins, -margins.T)
    assert not margins[4].any()


def test_the_one_that_loses_more_often_gets_the_margin() -> None:
    """Rows of category 0 are predicted as 1, rows of 1 never as 0: category 0 has to exceed 1 by more."""
    classifier = BalancedForeground(4, statistics_of([5] * 2)).double()
    classifier.loss(torch.tensor([[0.0, 4.0, 0.0], [0.0, 4.0, 0.0]]).double(), torch.tensor([0, 1]))
    classifier.finish_step(_one_worker)
    margins = classifier.margins(torch.tensor([0, 1]))
    assert margins[0, 1] > 3
    assert margins[1, 0] < -3


def test_without_margins_and_with_every_rival_it_is_the_loss_of_its_base() -> None:
    classifier, logits, labels = _confused(alpha=0.0, probability_threshold=0.0)
    plain = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 5).double(), reduction="sum") / 20
    torch.testing.assert_close(classifier.loss(logits, labels)["loss_cls"], plain)


def test_only_rivals_are_pushed_down_and_background_rows_push_all() -> None:
    classifier, logits, labels = _confused()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.loss(logits, labels)["loss_cls"], logits)
    foreground, scores = labels < 4, classifier.scores(logits)
    weaker = scores < scores.gather(1, labels[:, None]).clamp(max=0.7)
    weaker[:, -1] = False
    assert weaker[foreground].any()
    assert not gradient[foreground][weaker[foreground]].any()
    assert gradient[~foreground].all()
    assert gradient[foreground][~weaker[foreground]].all()
