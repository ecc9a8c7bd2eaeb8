"""Modules that several back ends need, and lists of modules that may have one entry."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """torchvision's frozen batch norm, whose factors are computed once, in the type of its input.

    torchvision's multiplies with float32 factors, so that with bfloat16 autocast every layer after it would
    get float32 and convert it.
    """

    _factors: tuple[Any, Tensor, Tensor] | None = None  # what they were computed from, and scale and shift

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel of (N, C, H, W)."""
        given = (self.weight, self.bias, self.running_mean, self.running_var)
        known = (x.dtype, *((id(value), value.data_ptr(), value._version) for value in given))
        if self._factors is None or self._factors[0] != known:
            weight, bias, mean, variance = (value.reshape(1, -1, 1, 1) for value in given)
            with torch.no_grad():
                scale = weight * (variance + self.eps).rsqrt()
                self._factors = known, scale.to(x.dtype), (bias - mean * scale).to(x.dtype)
        _, scale, shift = self._factors
        return (x * scale).add_(shift)


class FrozenStatisticsNorm(nn.BatchNorm2d):
    """Batch norm that always uses its stored mean and variance; scale and shift are ordinary parameters."""

    def train(self, mode: bool = True) -> "FrozenStatisticsNorm":
        """Stays in evaluation mode."""
        super().train(False)
        return self


def one_or_list(modules: Sequence[nn.Module]) -> nn.Module:
    """A ``ModuleList``, or the module itself if there is only one, so that its parameters' names have no
    number."""
    return modules[0] if len(modules) == 1 else nn.ModuleList(modules)


def as_list(one_or_many: Any) -> list[Any]:
    """The modules of a list, or the only one."""
    return list(one_or_many) if isinstance(one_or_many, (list, nn.ModuleList)) else [one_or_many]
