"""The focal loss equals the intended one, and on demand what the released kernel computes."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from released_layout import background_last, labels_from_released

from benchmark.detectors.build import build_classifier
from benchmark.errors import BenchmarkError
from benchmark.recipes import find_run
from methods.focal.classifier import Focal, sigmoid_focal_losses, targets_of_released_kernel


@pytest.mark.parametrize("case", golden_cases("bags", "focal_loss"))
@pytest.mark.parametrize("targets", ["one_hot", "released_kernel"])
def test_loss_and_gradient_equal_the_original(case: dict[str, Any], targets: str) -> None:
    inputs, expected = case["inputs"], case["expected"]
    logits = background_last(inputs["logits"]).requires_grad_()
    num_classes = logits.shape[1] - 1
    hyperparameters = {key: case["hyperparameters"][key] for key in ("gamma", "alpha")}
    classifier = Focal(4, statistics_of([5] * num_classes), targets=targets, **hyperparameters)
    if "class_weight" in inputs:
        classifier.weights = background_last(inputs["class_weight"])
    loss = classifier.loss(logits, labels_from_released(inputs["labels"], num_classes))["loss_cls"]
    loss.backward()
    names = ("loss_cls", "grad_logits")
    if targets == "released_kernel":
        names = ("loss_as_released_kernel", "grad_as_released_kernel")
    torch.testing.assert_close(loss.item(), expected[names[0]], **tolerance("bags"))
    torch.testing.assert_close(logits.grad, background_last(expected[names[1]]), **tolerance("bags"))


def test_the_released_kernel_reads_the_flattened_one_hot_matrix() -> None:
    """C + 1 = 3 channels, labels of the release 1, 0, 2, 2: flattened 010 100 001 001."""
    targets = targets_of_released_kernel(torch.tensor([0, 2, 1, 1]), 2, torch.float32)
    assert targets.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_stay_finite_where_the_answer_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    sigmoid_focal_losses(logits, torch.tensor([[1.0, 0.0, 1.0]]), gamma, 0.25).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_an_unknown_reading_of_the_targets_is_refused() -> None:
    run = find_run("bags:8")
    with pytest.raises(BenchmarkError, match="one_hot or released_kernel"):
        build_classifier(run.model_copy(update={"options": {"targets": "kernel"}}), statistics_of([1, 2]))
