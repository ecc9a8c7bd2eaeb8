"""Layers whose outputs are scaled cosines (``normed_predictor.py`` of mmdetection).

    output = tau x / (|x|^power + epsilon) * W / (|W|^power + epsilon) + bias

An all-zero feature gives the bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
SMALLEST_NORM = 1e-12  # of ``torch.nn.functional.normalize``


def normed(
    values: Tensor, dim: int | tuple[int, ...], power: float = 1.0, epsilon: float = EPSILON
) -> Tensor:
    """x / (|x|^power + epsilon) with the Euclidean norm over ``dim``; the divisor is at least 1e-12."""
    norm = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return values / (norm.pow(power) + epsilon).clamp(min=SMALLEST_NORM)


class NormedLinear(nn.Linear):
    """Cosine of a feature (..., D) and each row of W (L, D), times ``temperature``, plus bias.

    Args:
        in_features: D.
        out_features: L.
        temperature: tau, or its initial value if it is learned.
        power: exponent of the norms.
        bias: whether to add a bias.
        learned: whether tau is a parameter.
        epsilon: added to the norms; 0 for plain cosines, as ``torch.nn.functional.normalize`` gives them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        temperature: float = 20.0,
        power: float = 1.0,
        *,
        bias: bool = True,
        learned: bool = False,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.power, self.epsilon = power, epsilon
        self.temperature = nn.Parameter(torch.tensor(float(temperature))) if learned else temperature

    def forward(self, features: Tensor) -> Tensor:
        """(..., L) of features (..., D)."""
        x = self.temperature * normed(features, -1, self.power, self.epsilon)
        return F.linear(x, normed(self.weight, 1, self.power, self.epsilon), self.bias)


class NormedConv2d(nn.Conv2d):
    """Convolution of features with unit length at each pixel and filters with unit length over their inputs.

    Kaiming-normal weights (fan-out, ReLU) and bias 0, as mmdetection initialises its mask predictor.

    Args:
        in_channels: D.
        out_channels: L.
        kernel_size: side of the filters; no padding.
        temperature: tau.
        power: of the norms.
        whole_kernel: take the norm of a filter over all its positions instead of at each one; the same for
            1x1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        temperature: float = 20.0,
        power: float = 1.0,
        *,
        whole_kernel: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.temperature, self.power = temperature, power
        self.norm_dim: int | tuple[int, ...] = (1, 2, 3) if whole_kernel else 1
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, L, H', W') of features (N, D, H, W)."""
        x = self.temperature * normed(features, 1, self.power)
        return F.conv2d(x, normed(self.weight, self.norm_dim, self.power), self.bias)
