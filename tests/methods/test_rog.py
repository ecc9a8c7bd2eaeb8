"""The ranking loss, its prescribed gradient and its counter equal the released ones."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import labels_of, matrix
from torch import Tensor

from methods.rog.classifier import GapLoss, Ranked

CLOSE = tolerance("rog")


def _one_worker(value: Tensor) -> Tensor:
    return value


def _classifier(case: dict[str, Any], categories: int) -> Ranked:
    settings = case["hyperparameters"]
    return Ranked(
        4,
        statistics_of([5] * categories),
        gamma=settings["gamma"],
        rank_weight=settings["lambda"],
        delta=settings["delta"],
    ).double()


@pytest.mark.parametrize("case", golden_cases("rog", "gap_loss"))
def test_error_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"]).requires_grad_()
    seen = matrix([*case["inputs"]["seen_proposals"], 7.0])
    loss = _classifier(case, logits.shape[1]).gap(logits, labels_of(case["inputs"]), seen)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss.item(), case["expected"]["loss"], **CLOSE)
    torch.testing.assert_close(gradient, matrix(case["expected"]["grad_logits"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("rog", "gap_loss_calls"))
def test_calls_in_a_row_equal_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case, case["inputs"]["num_classes"])
    for inputs, expected in zip(case["inputs"]["calls"], case["expected"]["calls"], strict=True):
        logits = matrix(inputs["logits"]).requires_grad_()
        losses = classifier.loss(logits, labels_of(inputs))
        classifier.finish_step(_one_worker)
        assert classifier.seen.value.tolist() == expected["seen_proposals"]
        if expected["loss"] is None:
            assert "loss_cls_rank" not in losses
            assert not matrix(expected["grad_logits"]).any()
            continue
        loss = losses["loss_cls_rank"]
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
        torch.testing.assert_close(gradient, matrix(expected["grad_logits"]), **CLOSE)


def test_what_positives_win_negatives_lose() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(12, 5).double().requires_grad_(), torch.arange(12) % 6
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double()
    gradients = []
    for factor in (1.0, 2.0):
        loss = GapLoss.apply(logits, labels, factor * weights, 0.5)
        gradients.append(torch.autograd.grad(loss, logits)[0])
        assert 0 < loss.item() < 1
    assert gradients[0].sum().item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    sure = torch.where(torch.nn.functional.one_hot(labels, 6)[:, :5] > 0, 9.0, -9.0).double().requires_grad_()
    loss = GapLoss.apply(sure, labels, weights, 0.5)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, sure)[0].any()


def test_without_its_weight_only_sigmoids_are_trained() -> None:
    torch.manual_seed(0)
    classifier = Ranked(6, statistics_of([3, 40, 500]), rank_weight=0.0)
    features, labels = torch.randn(9, 6), torch.tensor([0, 1, 2, 2, 3, 3, 3, 3, 3])
    logits = classifier(features)
    losses = classifier.loss(logits, labels)
    targets = torch.nn.functional.one_hot(labels, 4).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 9
    torch.testing.assert_close(losses["loss_cls"], plain)
    total = losses["loss_cls"] + losses["loss_cls_rank"]
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (total, plain)]
    torch.testing.assert_close(*gradients)
    p = logits.sigmoid()
    torch.testing.assert_close(classifier.scores(logits)[:, :3], p[:, :3] * (1 - p[:, 3:]))
