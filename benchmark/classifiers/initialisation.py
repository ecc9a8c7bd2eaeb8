"""Initial values of the last layer."""

from torch import nn


def constant_(linear: nn.Linear, weight: float, bias: float) -> None:
    """One value for all weights and one for all biases: categories start equal, scored by ``bias``."""
    nn.init.constant_(linear.weight, weight)
    nn.init.constant_(linear.bias, bias)
