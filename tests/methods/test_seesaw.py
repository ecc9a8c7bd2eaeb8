"""Factors, losses, gradient, counts and scores equal MMDetection's Seesaw loss over many steps."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import labels_of, matrix
from torch import Tensor

from methods.seesaw.classifier import Seesaw

CLOSE = tolerance("seesaw")


def _one_worker(value: Tensor) -> Tensor:
    return value


def _classifier(categories: int, **options: float) -> Seesaw:
    return Seesaw(4, statistics_of([5] * categories), **options).double()


@pytest.mark.parametrize("case", golden_cases("seesaw", "seesaw_iterations"))
def test_every_step_equals_the_original(case: dict[str, Any]) -> None:
    """Row weights of a case are applied here; with weights of 1 the losses are the classifier's own."""
    settings, start = case["hyperparameters"], case["inputs"]["initial_cumulative_samples"]
    classifier = _classifier(
        case["inputs"]["num_classes"], **{key: settings[key] for key in ("p", "q", "eps")}
    )
    if start is not None:
        classifier.samples.value.copy_(matrix(start))
    for inputs, expected in zip(case["inputs"]["iterations"], case["expected"]["iterations"], strict=True):
        logits, labels = (
            matrix(inputs["logits"], classifier.num_classes + 2).requires_grad_(),
            labels_of(inputs),
        )
        foreground = labels < classifier.num_classes
        before = classifier.samples.value.clone()
        own = classifier.loss(logits, labels)
        classifier.finish_step(_one_worker)
        counts = classifier.samples.value
        torch.testing.assert_close(counts, matrix(expected["cumulative_samples"]), **CLOSE)
        torch.testing.assert_close(counts - before, labels.bincount(minlength=len(counts)).double())
        z = logits.detach()[foreground, : classifier.num_classes]
        factors = classifier.factors(z, labels[foreground], counts[:-1])
        golden = matrix(expected["seesaw_weights"], classifier.num_classes)
        torch.testing.assert_close(factors, golden, **CLOSE)
        weights = torch.ones(len(labels)).double()
        if inputs["label_weights"] is not None:
            weights = matrix(inputs["label_weights"])
        classes, objectness = classifier.row_losses(logits, labels, counts)
        divisor = max(int((weights > 0).sum()), 1)
        losses = {
            "loss_cls_classes": settings["loss_weight"] * (weights[foreground] * classes).sum() / divisor,
            "loss_cls_objectness": settings["loss_weight"] * (weights * objectness).sum() / divisor,
        }
        for name, loss in losses.items():
            torch.testing.assert_close(loss.item(), float(expected[name]), **CLOSE)
            if (weights == 1).all():
                torch.testing.assert_close(settings["loss_weight"] * own[name], loss)
        (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), logits)
        torch.testing.assert_close(
            gradient, matrix(expected["grad_logits"], classifier.num_classes + 2), **CLOSE
        )


@pytest.mark.parametrize("case", golden_cases("seesaw", "seesaw_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    scores = _classifier(logits.shape[1] - 2).scores(logits)
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(len(logits)).double())


@pytest.mark.parametrize("case", golden_cases("seesaw", "seesaw_scores_stages"))
def test_a_cascade_scores_the_mean_of_its_logits(case: dict[str, Any]) -> None:
    heads = [matrix(head) for head in case["inputs"]["logits_per_stage"]]
    classifier = _classifier(heads[0].shape[1] - 2)
    scores = classifier.detection_scores(heads, torch.rand(len(heads[0])))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("seesaw", "classifier_init"))
def test_initial_values_equal_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case["inputs"]["num_classes"])
    assert classifier.linear.out_features == case["expected"]["outputs"]
    assert classifier.linear.bias.unique().tolist() == [case["expected"]["bias"]]
    assert (classifier.linear.temperature, classifier.linear.epsilon) == (20.0, 1e-6)


def test_without_factors_it_is_cross_entropy_of_the_foreground() -> None:
    classifier = _classifier(4, p=0.0, q=0.0)
    logits, labels = torch.randn(9, 6).double(), torch.tensor([0, 1, 2, 3, 3, 4, 4, 4, 4])
    losses = classifier.loss(logits, labels)
    plain = F.cross_entropy(logits[:5, :4], labels[:5], reduction="sum") / 9
    torch.testing.assert_close(losses["loss_cls_classes"], plain)


def test_a_worker_counts_its_own_rois_before_it_uses_the_counts() -> None:
    """In the first step each of two workers sees only its own labels; in the next step both see all."""
    classifier = _classifier(2, q=0.0)
    logits = torch.zeros(5, 4).double()
    often, seldom = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 1, 1, 1, 1])
    first = [classifier.loss(logits, labels)["loss_cls_classes"].item() for labels in (often, seldom)]
    torch.testing.assert_close(first[0], first[1])  # mirror images of each other
    classifier.finish_step(_one_worker)
    assert classifier.samples.value.tolist() == [5, 5, 0]
