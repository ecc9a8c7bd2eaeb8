"""Cosine layers equal those of mmdetection."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from helpers import statistics_of
from torch import Tensor, nn

from benchmark.classifiers import CategoricalClassifier, NormedConv2d, NormedLinear

CLOSE = tolerance("gol")


def _check(layer: nn.Linear | nn.Conv2d, case: dict[str, Any]) -> None:
    given: dict[str, Tensor] = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in case["inputs"].items()
    }
    layer = layer.double()
    layer.load_state_dict({"weight": given["weight"], "bias": given["bias"]})
    features = given["features"].requires_grad_()
    output = layer(features)
    output.backward(given["upstream_grad"])
    results = {
        "output": output.detach(),
        "grad_features": features.grad,
        "grad_weight": layer.weight.grad,
        "grad_bias": layer.bias.grad,
    }
    for name, value in results.items():
        torch.testing.assert_close(value, torch.tensor(case["expected"][name], dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("case", golden_cases("gol", "normed_linear"))
def test_linear_equals_the_original(case: dict[str, Any]) -> None:
    settings = case["hyperparameters"]
    width, features = len(case["inputs"]["weight"]), len(case["inputs"]["weight"][0])
    layer = NormedLinear(features, width, settings["temperature"], settings["power"], epsilon=settings["eps"])
    _check(layer, case)


@pytest.mark.parametrize("case", golden_cases("gol", "normed_conv2d"))
def test_convolution_equals_the_original(case: dict[str, Any]) -> None:
    settings, weight = case["hyperparameters"], case["inputs"]["weight"]
    assert settings["eps"] == 1e-6
    layer = NormedConv2d(
        len(weight[0]),
        len(weight),
        settings["kernel_size"],
        settings["temperature"],
        settings["power"],
        whole_kernel=settings["norm_over_kernel"],
    )
    _check(layer, case)


def test_a_zero_feature_gives_the_bias_and_finite_gradients() -> None:
    layers = ((NormedLinear(3, 2), (4, 3)), (NormedConv2d(3, 2), (1, 3, 2, 2)))
    for layer, shape in layers:
        nn.init.constant_(layer.bias, 0.25)
        features = torch.zeros(shape, requires_grad=True)
        output = layer(features)
        assert output.unique().tolist() == [0.25]
        output.sum().backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_length_does_not_matter() -> None:
    layer = NormedLinear(8, 5).double()
    features = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(features * 1000), layer(features), rtol=1e-4, atol=1e-4)


def test_a_plain_cosine_with_a_learned_scale() -> None:
    """As ``torch.nn.functional.normalize`` has it; a zero feature gives zeros, and finite gradients."""
    layer = NormedLinear(3, 2, 20.0, bias=False, learned=True, epsilon=0.0).double()
    assert {name for name, _ in layer.named_parameters()} == {"weight", "temperature"}
    features = torch.randn(4, 3, dtype=torch.float64)
    features[1] = 0
    output = layer(features)
    unit, rows = (nn.functional.normalize(x, dim=1) for x in (features, layer.weight))
    torch.testing.assert_close(output, 20 * unit @ rows.T)
    assert not output[1].any()
    output.sum().backward()
    assert layer.temperature.grad is not None
    torch.testing.assert_close(layer.temperature.grad, output.detach().sum() / 20)
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_a_classifier_may_start_from_cosines() -> None:
    plain, cosine = (
        CategoricalClassifier(256, statistics_of([5] * 40), cosine=cosine)
        for cosine in (None, {"temperature": 8.0})
    )
    assert type(plain.linear) is nn.Linear
    assert cosine(torch.randn(30, 256) * 100).abs().max().item() <= 8
    for classifier in (plain, cosine):
        assert classifier.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not classifier.linear.bias.any()
