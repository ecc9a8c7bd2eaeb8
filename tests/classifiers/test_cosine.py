"""Cosine layers equal those of mmdetection."""

from typing import Any

import pytest
import torch
from golden_cases import golden_cases, tolerance
from torch import Tensor, nn

from benchmark.classifiers import NormedConv2d, NormedLinear

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
    assert settings["eps"] == 1e-6
    width, features = len(case["inputs"]["weight"]), len(case["inputs"]["weight"][0])
    _check(NormedLinear(features, width, settings["temperature"], settings["power"]), case)


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
