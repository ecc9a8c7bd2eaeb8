"""Modules that several back ends need, and lists of modules that may have one entry."""

from collections.abc import Sequence
from typing import Any

from torch import nn


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
