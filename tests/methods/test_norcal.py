"""Calibrated scores equal the released ones in every mode; gamma is searched on training images."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance, values_of_formula
from helpers import statistics_of
from later_cases import matrix
from torch import Tensor, nn

from benchmark.errors import BenchmarkError
from methods.norcal.classifier import NorCal, calibrated, log_divisors
from methods.norcal.stages import search_gamma

CLOSE = tolerance("norcal")
DIVISORS = {"gamma": "power", "cb": "effective_number"}
QUANTITIES = {"exps": "exponentials", "probs": "probabilities", "logits": "logits"}


def _settings(case: dict[str, Any]) -> dict[str, Any]:
    settings = case["hyperparameters"]
    return {
        "gamma": settings["gamma"],
        "divisor": DIVISORS[settings["method"]],
        "quantity": QUANTITIES[settings["calibrate_on"]],
        "renormalised": settings["renormalise"],
    }


@pytest.mark.parametrize("case", golden_cases("norcal", "norcal_scores"))
def test_scores_equal_the_original(case: dict[str, Any]) -> None:
    """One mode is not used by any classifier: exponentials that are not normalised exceed 1."""
    settings, counts = _settings(case), case["inputs"]["image_counts"]
    logits = matrix(case["inputs"]["logits"])
    n = matrix(counts).clamp(min=1)
    divisors = log_divisors(n, settings["divisor"], torch.tensor(settings["gamma"], dtype=torch.float64))
    scores = calibrated(logits, divisors, settings["quantity"], settings["renormalised"])
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)
    if settings["quantity"] == "exponentials" and not settings["renormalised"]:
        with pytest.raises(BenchmarkError, match="exceed 1"):
            NorCal(4, statistics_of(counts), **settings)
    else:
        own = NorCal(4, statistics_of(counts), **settings).scores(logits)
        torch.testing.assert_close(own, scores)


@pytest.mark.parametrize("case", golden_cases("norcal", "norcal_scores_real"))
def test_scores_at_the_size_of_lvis(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    values = values_of_formula(inputs["logits_formula"], inputs["rows"], inputs["columns"])
    classifier = NorCal(4, statistics_of(inputs["image_counts"]), **_settings(case))
    scores = classifier.scores(torch.from_numpy(values))
    torch.testing.assert_close(scores[:, expected["columns"]], matrix(expected["scores"]), **CLOSE)
    sums = scores[:, :-1].sum(dim=1)
    torch.testing.assert_close(sums, matrix(expected["sum_of_category_scores"]), **CLOSE)
    assert scores.argmax(dim=1).tolist() == expected["argmax"]


def test_gamma_zero_is_softmax_and_a_constant_changes_nothing() -> None:
    logits, statistics = torch.randn(6, 4, dtype=torch.float64), statistics_of([1, 30, 400])
    torch.testing.assert_close(NorCal(4, statistics).scores(logits), logits.softmax(dim=1))
    classifier = NorCal(4, statistics, gamma=0.6)
    torch.testing.assert_close(classifier.scores(logits + 7), classifier.scores(logits))
    torch.testing.assert_close(classifier.scores(logits).sum(dim=1), torch.ones(6).double())


class OneClassifier:
    """The part of a detector that the search uses."""

    def __init__(self, classifier: NorCal) -> None:
        self.classifiers = nn.ModuleList([classifier])


class TrainingSplit:
    """A training split whose AP is a function of gamma."""

    def average_precision(self, detector: Any, images: int) -> float | None:
        assert images == 7
        gamma: Tensor = detector.classifiers[0].gamma
        return None if gamma == 1 else 0.5 - (gamma.item() - 0.3) ** 2


def test_the_best_gamma_is_kept_and_the_curve_recorded() -> None:
    classifier = NorCal(4, statistics_of([1, 30]))
    detector, data = OneClassifier(classifier), TrainingSplit()
    facts = search_gamma(detector, data, statistics_of([1, 30]), [0.0, 0.2, 0.4, 1.0], 7)  # type: ignore[arg-type]
    assert facts == {
        "gamma": 0.2,
        "training_ap_by_gamma": {"0": 0.41, "0.2": 0.49, "0.4": 0.49, "1": 0.0},
    }
    assert classifier.gamma.item() == 0.2
    assert "gamma" in classifier.state_dict()


@pytest.mark.parametrize("wrong", [{"divisor": "sum"}, {"quantity": "scores"}])
def test_unknown_readings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchmarkError, match=f"unknown {next(iter(wrong))}"):
        NorCal(4, statistics_of([3, 4]), **wrong)
