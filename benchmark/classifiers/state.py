"""State that a loss keeps during training, the same in every process."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Sum of a tensor over the workers of all processes; may return the tensor itself."""


class RunningSum(nn.Module):
    """A sum over all RoIs that the losses of a training have seen, up to the end of the previous step.

    ``value`` is a buffer, so checkpoints contain it. Amounts that a loss adds are kept separately and added
    to ``value`` at the end of the step, so that the losses of all workers of a step read the same state. They
    are not a buffer, because data-parallel wrappers overwrite the buffers of all processes with those of the
    first.

    Args:
        size: shape of the sum.
    """

    value: Tensor

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(size))
        self._added: Tensor | None = None

    def add(self, amount: Tensor) -> None:
        """Collect an amount of this step, in the shape of the sum, detached from the graph."""
        amount = amount.detach().to(self.value)
        self._added = amount if self._added is None else self._added + amount

    def finish_step(self, total: Total) -> None:
        """Add the amounts that all workers have collected since the last call."""
        added = torch.zeros_like(self.value) if self._added is None else self._added
        self.value += total(added)
        self._added = None
