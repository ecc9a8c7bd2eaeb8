"""Aligned logits, weights, loss and training equal the released DisAlign, on both of its bases."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from later_cases import check_loss, labels_of, matrix

from benchmark.errors import BenchmarkError
from methods.disalign.classifier import DisAlign, reweighting
from methods.softmax.classifier import Softmax

CLOSE = tolerance("disalign")
COSINE = {"bias": False, "learned": True, "epsilon": 0.0}


def _classifier(inputs: dict[str, Any], **options: Any) -> DisAlign:
    weight = matrix(inputs["weight"])
    counts = inputs.get("counts", [5] * (len(weight) - 1))
    classifier = DisAlign(weight.shape[1], statistics_of(counts), **options).double()
    with torch.no_grad():
        classifier.linear.weight.copy_(weight)
        if "bias" in inputs:
            classifier.linear.bias.copy_(matrix(inputs["bias"]))
        if "scale" in inputs:
            classifier.linear.temperature.fill_(inputs["scale"])
        if "logit_scale" in inputs:
            classifier.magnitude.copy_(matrix(inputs["logit_scale"]))
            classifier.margin.copy_(matrix(inputs["logit_bias"]))
            classifier.confidence.bias.fill_(inputs["confidence_bias"])
        a = inputs.get("confidence_weight") or inputs["initial_confidence_weight"]
        classifier.confidence.weight.copy_(matrix(a)[None])
    return classifier


def _check_logits(case: dict[str, Any], classifier: DisAlign, **more: torch.nn.Parameter) -> None:
    expected = case["expected"]
    parameters = {
        "grad_logit_scale": classifier.magnitude,
        "grad_logit_bias": classifier.margin,
        "grad_confidence_weight": classifier.confidence.weight,
        "grad_confidence_bias": classifier.confidence.bias,
    } | more
    logits = classifier(matrix(case["inputs"]["features"]))
    torch.testing.assert_close(logits.data, matrix(expected["logits"]), **CLOSE)
    logits.backward(matrix(case["inputs"]["upstream_grad"]))
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        golden = torch.tensor(expected[name], dtype=torch.float64).reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, golden, **CLOSE)


@pytest.mark.parametrize("case", golden_cases("disalign", "disalign_logits"))
def test_logits_and_gradients_equal_the_original(case: dict[str, Any]) -> None:
    _check_logits(case, _classifier(case["inputs"]))


@pytest.mark.parametrize("case", golden_cases("disalign", "disalign_cosine_logits"))
def test_logits_and_gradients_on_cosines_equal_the_original(case: dict[str, Any]) -> None:
    classifier = _classifier(case["inputs"], cosine=COSINE)
    classifier.linear.requires_grad_(True)
    more = {"grad_scale": classifier.linear.temperature, "grad_weight": classifier.linear.weight}
    _check_logits(case, classifier, **more)


@pytest.mark.parametrize("case", golden_cases("disalign", "grw_weights"))
def test_weights_equal_the_original(case: dict[str, Any]) -> None:
    weights = reweighting(matrix(case["inputs"]["counts"]), case["hyperparameters"]["rho"])
    torch.testing.assert_close(weights, matrix(case["expected"]["weights"]), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("disalign", "grw_loss"))
def test_loss_and_gradient_equal_the_original(case: dict[str, Any]) -> None:
    inputs = case["inputs"]
    classifier = DisAlign(4, statistics_of(inputs["counts"]), case["hyperparameters"]["rho"])
    torch.testing.assert_close(classifier.weights, matrix(case["expected"]["weights"]), **CLOSE)
    logits = matrix(inputs["logits"]).requires_grad_()
    check_loss(classifier.loss(logits, labels_of(inputs)), logits, case["expected"], CLOSE)


@pytest.mark.parametrize("case", golden_cases("disalign", "disalign_steps"))
def test_training_equals_the_original(case: dict[str, Any]) -> None:
    """Only the new parameters move; weight decay pulls the magnitudes to 0, not to 1."""
    expected, rates = case["expected"], case["hyperparameters"]
    classifier = _classifier(case["inputs"], rho=rates["rho"])
    optimizer = torch.optim.SGD(
        [parameter for parameter in classifier.parameters() if parameter.requires_grad],
        lr=rates["learning_rate"],
        momentum=rates["momentum"],
        weight_decay=rates["weight_decay"],
    )
    for batch, golden in zip(case["inputs"]["batches"], expected["losses"], strict=True):
        loss = classifier.loss(classifier(matrix(batch["features"])), labels_of(batch))["loss_cls"]
        torch.testing.assert_close(loss.item(), golden, **CLOSE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter, name in (
        (classifier.magnitude, "logit_scale"),
        (classifier.margin, "logit_bias"),
        (classifier.confidence.weight, "confidence_weight"),
        (classifier.confidence.bias, "confidence_bias"),
    ):
        golden = torch.tensor(expected[name], dtype=torch.float64).reshape(parameter.shape)
        torch.testing.assert_close(parameter.data, golden, **CLOSE)


@pytest.mark.parametrize("cosine", [None, COSINE])
def test_it_starts_as_its_base(cosine: dict[str, Any] | None) -> None:
    statistics = statistics_of([3, 40, 500])
    base = Softmax(6, statistics, cosine=cosine)
    classifier = DisAlign(6, statistics, cosine=cosine)
    missing, unexpected = classifier.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == {"magnitude", "margin", "confidence.weight", "confidence.bias"}
    assert {name for name, p in classifier.named_parameters() if p.requires_grad} == set(missing)
    features = torch.randn(5, 6)
    torch.testing.assert_close(classifier(features), base(features))


def test_unknown_counts_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="instances or images"):
        DisAlign(4, statistics_of([3]), counts="boxes")  # type: ignore[arg-type]
