"""The interface between the training loop and a method that learns more than the classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmark.classifiers.interface import Classifier

Average = Callable[[Tensor], Tensor]
"""Mean of a tensor over the processes; with one process, the tensor itself."""


@dataclass(frozen=True)
class Rois:
    """The classifier's input for the images of one worker: features (N, D), labels (N,) in ``0..C``."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class VirtualSgd:
    """The SGD step that the classifier would take next; computing it does not change the classifier.

    A stage that trains with AdamW has no momentum buffers: its virtual step is plain SGD, momentum 0, with
    AdamW's current learning rate and weight decay. Gradients are not clipped.

    Args:
        learning_rate: eta of this iteration, after warm-up and decay.
        momentum: mu.
        weight_decay: lambda.
        buffers: v by name of the classifier's parameter; empty before the first real step.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    def step(self, name: str, parameter: Tensor, gradient: Tensor) -> Tensor:
        """theta' = theta - eta (mu v + g + lambda theta)."""
        direction = gradient + self.weight_decay * parameter
        if name in self.buffers:
            direction = direction + self.momentum * self.buffers[name]
        return parameter - self.learning_rate * direction


class MetaStep:
    """Called before every real step of a stage that trains the classifier only.

    Store what it learns in buffers of the classifier: finished checkpoints then contain it, and the real
    optimiser does not update it. The state of its own optimiser is saved with unfinished trainings.

    Args:
        classifier: on its device, with the weights that the stage starts or continues from.
    """

    def __init__(self, classifier: Classifier) -> None:
        raise NotImplementedError

    def step(
        self, train: Sequence[Rois], meta: Sequence[Rois], virtual: VirtualSgd, average: Average
    ) -> dict[str, Tensor]:
        """Learn from the training batch that the real step will use, and a batch of the meta sampler.

        Both have an entry for each worker of the release whose images this process has; all workers have
        equal weight. ``average`` must be called equally often in every process. Returns scalars to report, by
        name.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that ``step`` depends on except the classifier: tensors and plain values."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        raise NotImplementedError
