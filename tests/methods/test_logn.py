"""Statistics, calibrated logits and scores equal the released head's; images are processed one by one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import matrix
from torch import Tensor, nn

from benchmark.detectors import RoIBatch
from methods.logn.classifier import LogitNormalised
from methods.logn.stages import collect

CLOSE = tolerance("logn")


def _classifier(categories: int, inputs: dict[str, Any] | None = None) -> LogitNormalised:
    classifier = LogitNormalised(4, statistics_of([5] * categories)).double()
    if inputs is not None:
        classifier.mean.copy_(matrix(inputs["mean"]))
        classifier.variance.copy_(matrix(inputs["variance"]))
    return classifier


@pytest.mark.parametrize("case", golden_cases("logn", "logn_statistics"))
def test_statistics_equal_the_original(case: dict[str, Any]) -> None:
    batches, settings = [matrix(batch) for batch in case["inputs"]["batches"]], case["hyperparameters"]
    classifier = _classifier(batches[0].shape[1] - 1)
    classifier.mean.fill_(settings["initial_mean"])
    classifier.variance.fill_(settings["initial_variance"])
    for batch in batches:
        classifier.observe(batch, settings["momentum"])
    torch.testing.assert_close(classifier.mean, matrix(case["expected"]["mean"]), **CLOSE)
    torch.testing.assert_close(classifier.variance, matrix(case["expected"]["variance"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("logn", "logn_statistics", ("upstream_bug",)))
def test_a_test_in_between_does_not_touch_the_statistics(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    before, after = ([matrix(batch) for batch in inputs[f"batches_{name}"]] for name in ("before", "after"))
    classifier = _classifier(before[0].shape[1] - 1)
    for batch in before:
        classifier.observe(batch, case["hyperparameters"]["momentum"])
    torch.testing.assert_close(classifier.mean, matrix(expected["mean_before_test"]), **CLOSE)
    classifier.scores(classifier.calibrated(before[0]))
    for batch in after:
        classifier.observe(batch, case["hyperparameters"]["momentum"])
    torch.testing.assert_close(classifier.mean, matrix(expected["mean_at_end_intended"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("logn", "logn_scores"))
def test_calibrated_logits_and_scores_equal_the_original(case: dict[str, Any]) -> None:
    inputs, expected = case["inputs"], case["expected"]
    classifier = _classifier(len(inputs["mean"]) - 1, inputs)
    logits = classifier.calibrated(matrix(inputs["logits"]))
    torch.testing.assert_close(logits, matrix(expected["calibrated_logits"]), **CLOSE)
    torch.testing.assert_close(classifier.scores(logits), matrix(expected["scores"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("logn", "logn_scores_stages"))
def test_a_cascade_averages_calibrated_logits(case: dict[str, Any]) -> None:
    heads = case["inputs"]["stages"]
    classifiers = [_classifier(len(head["mean"]) - 1, head) for head in heads]
    logits = [
        classifier.calibrated(matrix(head["logits"]))
        for classifier, head in zip(classifiers, heads, strict=True)
    ]
    mean = torch.stack(logits).mean(dim=0)
    torch.testing.assert_close(mean, matrix(case["expected"]["calibrated_logits"]), **CLOSE)
    scores = classifiers[-1].detection_scores(logits, torch.rand(len(mean)))
    torch.testing.assert_close(scores, matrix(case["expected"]["scores"]), **CLOSE)


def test_before_the_pass_it_is_softmax_and_background_never_changes() -> None:
    classifier, x = _classifier(3), torch.randn(6, 4).double()
    torch.testing.assert_close(classifier(x), classifier.linear(x))
    classifier.mean.copy_(torch.tensor([-2.0, 1.0, 3.0, 99.0]))
    classifier.variance.copy_(torch.tensor([0.5, 1.0, 4.0, 99.0]))
    logits = classifier(x)
    assert logits[:, -1].equal(classifier.linear(x)[:, -1])
    torch.testing.assert_close(logits[:, 0], classifier.linear(x)[:, 0] / 0.5**0.5)


class OneClassifier:
    """A detector whose images have as many RoIs as their first pixel says, all with the same features."""

    def __init__(self, classifier: LogitNormalised) -> None:
        self.classifiers = nn.ModuleList([classifier])

    def box_features(self, images: list[Tensor], targets: list[Any]) -> list[RoIBatch]:
        (image,) = images
        features = torch.arange(4.0 * int(image[0])).reshape(-1, 4).double()
        labels = torch.zeros(len(features), dtype=torch.int64)
        return [RoIBatch(features, labels, labels[:, None].expand(-1, 4), labels)]


class TrainingSplit:
    """Four images, one of them with a single RoI."""

    def drawn(self, passes: float, size: int) -> Iterator[tuple[list[Tensor], list[Any]]]:
        assert (passes, size) == (0.25, 1)
        for rois in (5, 1, 3, 4):
            yield [torch.tensor([rois])], [None]


def test_the_pass_takes_a_step_for_every_image() -> None:
    classifier, expected = _classifier(2), _classifier(2)
    expected.load_state_dict(classifier.state_dict())
    detector, data = OneClassifier(classifier), TrainingSplit()
    with torch.no_grad():
        facts = collect(detector, data, statistics_of([5, 5]), momentum=0.1, passes=0.25)  # type: ignore[arg-type]
        for rois in (5, 3, 4):
            features = torch.arange(4.0 * rois).reshape(-1, 4).double()
            expected.observe(expected.linear(features), 0.1)
    assert facts == {"images": 4, "share_of_start_values": pytest.approx(0.9**4)}
    torch.testing.assert_close(classifier.mean, expected.mean)
    torch.testing.assert_close(classifier.variance, expected.variance)
