"""What a loss remembers of the training so far, the same in every process."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Sum of a tensor over the workers of all processes; maybe the tensor itself."""


class RunningSum(nn.Module):
    """A sum over all RoIs that the losses of a training have seen, up to the end of the step before.

    ``value`` is a buffer and so in checkpoints. What a loss adds is kept apart and comes into ``value`` when
    the step ends, so that the losses of all workers of a step read the same state. It is no buffer:
    data-parallel wrappers overwrite the buffers of all processes with those of the first.

    Args:
        size: shape of the sum.
    """

    value: Tensor

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(size))
        self._added: Tensor | None = None

    def add(self, amount: Tensor) -> None:
        """Remember an amount of this step, in the shape of the sum; no gradient flows through it."""
        amount = amount.detach().to(self.value)
        self._added = amount if self._added is None else self._added + amount

    def finish_step(self, total: Total) -> None:
        """Add what all workers have remembered since the last call."""
        added = torch.zeros_like(self.value) if self._added is None else self._added
        self.value += total(added)
        self._added = None
