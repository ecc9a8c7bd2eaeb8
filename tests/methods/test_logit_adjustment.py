"""Losses, gradients and scores equal the public codes' for LVIS; the two ways are each other's inverse."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss, labels_of, matrix

from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics
from methods.logit_adjustment.classifier import LogitAdjusted

CLOSE = tolerance("logit_adjustment")


def _statistics(inputs: dict[str, Any]) -> ClassStatistics:
    images = inputs["image_counts"]
    instances = inputs.get("instance_counts", images)
    return replace(statistics_of(instances, images), num_images=inputs.get("num_images"))


def _check(case: dict[str, Any], **options: Any) -> None:
    classifier = LogitAdjusted(4, _statistics(case["inputs"]), **options)
    logits = matrix(case["inputs"]["logits"], classifier.num_classes + 1).requires_grad_()
    check_loss(classifier.loss(logits, labels_of(case["inputs"])), logits, case["expected"], CLOSE)
    scores = classifier.scores(logits.detach())
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("logit_adjustment", "logit_adjusted_loss"))
def test_the_adjusted_loss_equals_the_original(case: dict[str, Any]) -> None:
    _check(case, background_offset=case["hyperparameters"]["background_offset"])


@pytest.mark.parametrize("case", golden_cases("logit_adjustment", "balanced_softmax_ce_loss"))
def test_the_balanced_loss_equals_the_original(case: dict[str, Any]) -> None:
    _check(case, prior="image_counts")


@pytest.mark.parametrize("case", golden_cases("logit_adjustment", "logit_adjusted_scores"))
def test_adjusted_scores_equal_the_original(case: dict[str, Any]) -> None:
    settings = {key: case["hyperparameters"][key] for key in ("tau", "prior", "logarithm")}
    classifier = LogitAdjusted(4, _statistics(case["inputs"]), when="testing", **settings)
    scores = classifier.scores(matrix(case["inputs"]["logits"]))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


COUNTS = {"image_counts": [1, 20, 300], "instance_counts": [1, 60, 900], "num_images": 400}


def test_without_tau_it_is_softmax() -> None:
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3, 3])
    for when in ("training", "testing"):
        classifier = LogitAdjusted(4, _statistics(COUNTS), when=when, tau=0.0)
        plain = torch.nn.functional.cross_entropy(logits, labels)
        torch.testing.assert_close(classifier.loss(logits, labels)["loss_cls"], plain)
        torch.testing.assert_close(classifier.scores(logits), logits.softmax(dim=1))


def test_equal_shares_change_nothing_in_testing() -> None:
    inputs = {"image_counts": [5] * 4, "instance_counts": [7] * 4, "num_images": 20}
    logits = torch.randn(6, 5, dtype=torch.float64)
    for prior in ("image_share", "instance_share"):
        scores = LogitAdjusted(4, _statistics(inputs), when="testing", prior=prior).scores(logits)
        torch.testing.assert_close(scores, logits.softmax(dim=1))


def test_bases_of_the_logarithm_scale_tau() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    for prior in ("image_counts", "image_share"):
        statistics, common = _statistics(COUNTS), {"when": "testing", "prior": prior}
        ten = LogitAdjusted(4, statistics, logarithm="10", **common)
        natural = LogitAdjusted(4, statistics, tau=1 / np.log(10), **common)
        torch.testing.assert_close(ten.scores(logits), natural.scores(logits))


@pytest.mark.parametrize("wrong", [{"when": "always"}, {"prior": "share"}, {"logarithm": "2"}])
def test_unknown_readings_and_plain_tables_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchmarkError, match=f"unknown {next(iter(wrong))}"):
        LogitAdjusted(4, _statistics(COUNTS), **wrong)
    with pytest.raises(BenchmarkError, match="number of images"):
        LogitAdjusted(4, _statistics({**COUNTS, "num_images": None}))
