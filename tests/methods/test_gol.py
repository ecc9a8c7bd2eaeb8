"""DropLoss with the Gumbel link equals the released code, given its random numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from gol_cases import logits_and_labels, matrix, statistics_with
from golden_cases import golden_cases, tolerance
from helpers import statistics_of

from benchmark.classifiers import infrequent_share, one_hot, random_weights
from benchmark.recipes.plugins import find_plugins
from methods.droploss.classifier import DropLoss
from methods.gol.classifier import GumbelDropLoss

CLOSE = tolerance("gol")
METHODS = {"gumbel": GumbelDropLoss, "sigmoid": DropLoss}


@pytest.mark.parametrize("case", golden_cases("gol", "droploss"))
def test_loss_weights_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    settings, expected = case["hyperparameters"], case["expected"]
    statistics = statistics_with(case["inputs"]["class_frequency"])
    classifier = METHODS[settings["activation"]](4, statistics, settings["lambda_"])
    logits, labels = logits_and_labels(case)
    uniform = matrix(case["inputs"]["uniform_random"])
    targets = one_hot(labels, classifier.num_classes, torch.float64)
    share = infrequent_share(targets, classifier.infrequent)
    if expected["infrequent_foreground_ratio"] is None:
        assert share.isnan()
    else:
        torch.testing.assert_close(share.item(), expected["infrequent_foreground_ratio"], **CLOSE)
    weights = random_weights(targets, classifier.infrequent, uniform)
    assert weights.tolist() == expected["element_weights"]
    loss = settings["loss_weight"] * classifier.drop_loss(logits, labels, uniform)
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss"], **CLOSE)
    torch.testing.assert_close(logits.grad, matrix(expected["grad_logits"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("apa", "apa_gumbel_droploss"))
def test_the_loss_of_apa_equals_its_release(case: dict[str, Any]) -> None:
    """The wider clamp and the exact gradient, with the options of the variant."""
    options = find_plugins([])["gol"].method.variants["apa"].options
    close, expected, threshold = tolerance("apa"), case["expected"], case["hyperparameters"]["lambda"]
    statistics = statistics_with(np.float32(case["inputs"]["image_frequency"]))
    classifier = GumbelDropLoss(4, statistics, threshold, **options)
    logits, labels = logits_and_labels(case)
    loss = classifier.drop_loss(logits, labels, matrix(case["inputs"]["uniform_random"]))
    loss.backward()
    torch.testing.assert_close(loss.item(), expected["loss"], **close)
    torch.testing.assert_close(logits.grad, matrix(expected["grad_logits"]), **close)
    scores = classifier.scores(logits.detach())
    torch.testing.assert_close(scores, matrix(expected["scores"]), **close)


@pytest.mark.parametrize("case", golden_cases("gol", "activation"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    scores = GumbelDropLoss(4, statistics_of([5] * logits.shape[1])).scores(logits)
    torch.testing.assert_close(scores, matrix(case["expected"]["droploss_gumbel_scores_with_dummy"]), **CLOSE)


def test_an_infrequent_background_negative_is_kept_as_often_as_foreground_is_infrequent() -> None:
    """One of four foreground rows is infrequent, so a quarter of the draws keep the pair."""
    torch.manual_seed(0)
    classifier = GumbelDropLoss(4, statistics_with([2e-5, 0.5]))
    labels = torch.tensor([0, 1, 1, 1] + [2] * 4000)
    targets = one_hot(labels, 2, torch.float32)
    weights = random_weights(targets, classifier.infrequent, torch.rand(len(labels), 2))
    assert weights[:4].tolist() == [[1, 1], [0, 1], [0, 1], [0, 1]]
    assert weights[4:, 1].all()
    assert weights[4:, 0].mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_draw_depends_on_the_default_generator_alone() -> None:
    classifier = GumbelDropLoss(4, statistics_with([2e-5] * 5 + [0.5]))
    logits, labels = torch.zeros(40, 6), torch.tensor([0, 5] + [6] * 38)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(classifier.loss(logits, labels)["loss_cls"].item())
    assert values[0] == values[1] != values[2]
