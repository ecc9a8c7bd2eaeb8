"""Margins, weights, loss, gradient and scores equal the released ECM loss."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss, labels_of, matrix

from benchmark.errors import BenchmarkError
from benchmark.statistics import ClassStatistics
from methods.ecm.classifier import EffectiveClassMargin, class_weights, counts_with_background, margins

CLOSE = tolerance("ecm")
SOURCES = {"lvis_v1 instance_count": "tests/data/lvis_v1_categories.csv"}


def _counts(inputs: dict[str, Any]) -> torch.Tensor:
    if "count_source" in inputs:
        table = ClassStatistics.read(SOURCES[inputs["count_source"]])
        return torch.as_tensor(table.instance_counts).double()
    return matrix(inputs["instance_counts"])


def _constants(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    n = counts_with_background(
        _counts(case["inputs"]), case["hyperparameters"]["foreground_background_ratio"]
    )
    positive, negative = margins(n)
    return {
        "counts_with_background": n,
        "positive_margin": positive,
        "negative_margin": negative,
        "class_weight": class_weights(n),
    }


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_weights"))
def test_margins_and_weights_equal_the_original(case: dict[str, Any]) -> None:
    for name, value in _constants(case).items():
        torch.testing.assert_close(value, matrix(case["expected"][name]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_weights_real"))
def test_margins_and_weights_of_lvis_equal_the_original(case: dict[str, Any]) -> None:
    expected = case["expected"]
    for name, value in _constants(case).items():
        torch.testing.assert_close(value[expected["columns"]], matrix(expected[name]), **CLOSE)
        if f"sum_{name}" in expected:
            torch.testing.assert_close(value.sum().item(), expected[f"sum_{name}"], **CLOSE)


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_weights_float32", ("upstream_bug",)))
def test_weights_in_float32_are_the_released_ones_on_demand(case: dict[str, Any]) -> None:
    counts, ratio = _counts(case["inputs"]), case["hyperparameters"]["foreground_background_ratio"]
    statistics = statistics_of(counts.long().tolist())
    of_counts = [int((counts == count).nonzero()[0]) for count in case["inputs"]["instance_counts"]]
    for float32, key, close in ((True, "released_class_weight", 1e-6), (False, "class_weight", 1e-8)):
        classifier = EffectiveClassMargin(4, statistics, background_ratio=ratio, float32_weights=float32)
        found = classifier.weights[of_counts]
        torch.testing.assert_close(found, matrix(case["expected"][key]), rtol=close, atol=0)


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs, settings = case["inputs"], case["hyperparameters"]
    statistics = statistics_of(inputs["instance_counts"])
    classifier = EffectiveClassMargin(4, statistics, background_ratio=settings["foreground_background_ratio"])
    logits = matrix(inputs["logits"], classifier.num_classes + 1).requires_grad_()
    losses = classifier.loss(logits, labels_of(inputs))
    check_loss(losses, logits, case["expected"], CLOSE, settings["loss_weight"])


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    logits = matrix(case["inputs"]["logits"])
    scores = EffectiveClassMargin(4, statistics_of([5] * (logits.shape[1] - 1))).scores(logits)
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("ecm", "ecm_scores_stages"))
def test_a_cascade_scores_the_mean_of_its_logits(case: dict[str, Any]) -> None:
    heads = [matrix(head) for head in case["inputs"]["logits_per_stage"]]
    classifier = EffectiveClassMargin(4, statistics_of([5] * (heads[0].shape[1] - 1)))
    scores = classifier.detection_scores(heads, torch.rand(len(heads[0])))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("ecm", "classifier_init"))
def test_initial_values_equal_the_original(case: dict[str, Any]) -> None:
    classifier = EffectiveClassMargin(4, statistics_of([5] * case["inputs"]["num_classes"]))
    assert classifier.linear.out_features == case["expected"]["outputs"]
    assert classifier.linear.bias.unique().tolist() == [case["expected"]["bias"]]
    assert (classifier.linear.temperature, classifier.linear.epsilon) == (20.0, 1e-6)


def test_the_two_margins_share_one() -> None:
    """exp(-g+) + exp(-g-) = 1; the rarer, the less a negative pushes and the more a row weighs."""
    n = torch.tensor([1.0, 20.0, 300.0, 90000.0], dtype=torch.float64)
    positive, negative = margins(n)
    torch.testing.assert_close((-positive).exp() + (-negative).exp(), torch.ones_like(n))
    assert (positive.diff() > 0).all()
    assert (class_weights(n).diff() < 0).all()


def test_counts_may_be_of_images() -> None:
    statistics = statistics_of([900, 900, 900], image_counts=[1, 30, 900])
    alike = EffectiveClassMargin(4, statistics).margin
    assert alike[:3].unique().numel() == 1
    assert (EffectiveClassMargin(4, statistics, counts="images").margin[:3].diff() > 0).all()
    with pytest.raises(BenchmarkError, match="instances or images"):
        EffectiveClassMargin(4, statistics, counts="boxes")  # type: ignore[arg-type]
