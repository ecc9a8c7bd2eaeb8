"""The interface between methods and detectors: logits, loss, scores."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.classifiers.cosine import NormedLinear
from benchmark.classifiers.state import RunningSum, Total
from benchmark.statistics import ClassStatistics

INITIAL_WEIGHT_STD = 0.01  # of the last layer in the detection code bases of all four papers


class Classifier(nn.Module):
    """Box classification layer of a detector: one instance per box head.

    Labels are int64 in ``0..C``; ``C`` is background. One call of ``loss`` gets all RoIs of one worker of the
    release (``images_per_worker`` of the stage), for any number of processes; the losses of the workers of a
    step are averaged. A loss depends on the parameters only through the logits. Its random draws use
    PyTorch's default generator, which the training loop seeds from (seed, iteration, worker) before each
    call.

    The constructor warns (``benchmark.notices.DataWarning``) if a setting has no effect for these counts,
    such as a threshold that no category exceeds. The training prints and records the warning before its first
    step.

    A loss may keep state in ``RunningSum`` modules. ``loss`` is called once per training step for each
    worker, and never in testing. It reads the sums as they were at the start of the step, and adds to them.
    After all losses of a step, every process calls ``finish_step`` once. This adds the amounts of every
    worker to the sums exactly once, so the state is the same in all processes, for any distribution of the
    images. Checkpoints of finished and unfinished trainings contain the state.

    Args:
        in_features: width D of the box-head features.
        statistics: training counts of the C categories.
        pooled_features: width P of the flattened RoIAlign output, in a class that ``takes_pooled``.
    """

    before_activation: ClassVar[bool] = False
    """Whether ``forward`` takes the box-head features before the head's last ReLU."""

    takes_pooled: ClassVar[bool] = False
    """Whether ``forward`` also takes the pooled input of the box head: features are (N, D + P), pooled ones
    last. The constructor of such a class takes ``pooled_features``."""

    def __init__(self, in_features: int, statistics: ClassStatistics, pooled_features: int = 0) -> None:
        super().__init__()
        self.in_features, self.pooled_features = in_features, pooled_features
        self.num_classes = statistics.num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, L) of RoI features (N, D + P); L is the method's choice."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar losses by name, each starting with ``loss_cls``, of logits (N, L) and labels (N,)."""
        raise NotImplementedError

    def finish_step(self, total: Total) -> None:
        """Add the amounts of this step's losses to the state; ``total`` sums a tensor over the workers."""
        for module in self.modules():
            if isinstance(module, RunningSum):
                module.finish_step(total)

    def scores(self, logits: Tensor) -> Tensor:
        """Scores (N, C + 1) in [0, 1] of logits (N, L), background last."""
        raise NotImplementedError

    def detection_scores(
        self,
        logits: Sequence[Tensor],
        objectness: Tensor,
        average: Literal["logits", "scores"] = "logits",
    ) -> Tensor:
        """Scores (N, C + 1) in [0, 1] of detections in testing, background last.

        A method overrides this if it combines the heads of a cascade in another way or uses the score of the
        proposal. Called on the classifier of the last head.

        Args:
            logits: (N, L) of each box head of a cascade, or of the only one.
            objectness: the proposal network's score (N,) in [0, 1] of each proposal.
            average: whether a cascade averages logits or scores (see ``cascade`` of the detector's settings).
        """
        if average == "scores":
            return torch.stack([self.scores(of_head) for of_head in logits]).mean(dim=0)
        return self.scores(torch.stack(list(logits)).mean(dim=0))

    def category_weights(self) -> Tensor | None:
        """The weight vectors (C, D) behind the test scores of the categories; None if there is not one for
        each."""
        return None


class LinearClassifier(Classifier):
    """A classifier whose logits are one linear map of the features: weights N(0, 0.01), bias 0.

    Args:
        in_features: width D of the box-head features.
        statistics: training counts of the C categories.
        width: number of logits.
        pooled_features: as above.
        cosine: keyword arguments of ``NormedLinear``, for logits that are scaled cosines of features and
            weights; None for plain products.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        width: int,
        pooled_features: int = 0,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, pooled_features)
        self.linear = (
            nn.Linear(in_features, width) if cosine is None else NormedLinear(in_features, width, **cosine)
        )
        nn.init.normal_(self.linear.weight, std=INITIAL_WEIGHT_STD)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, width) of features (N, D)."""
        logits: Tensor = self.linear(features)
        return logits

    def category_weights(self) -> Tensor | None:
        """The rows of the categories, if the linear map has one row for each category, with or without
        background."""
        weight = self.linear.weight
        return weight[: self.num_classes] if len(weight) in (self.num_classes, self.num_classes + 1) else None


class CategoricalClassifier(LinearClassifier):
    """One distribution over C categories and background: logits (N, C + 1), background last.

    Trained with plain cross entropy unless a method overrides ``loss``.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        pooled_features: int = 0,
        cosine: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, statistics, statistics.num_classes + 1, pooled_features, cosine)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_n CE(z_n, y_n); 0 without proposals."""
        return {"loss_cls": F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """p_n = softmax(z_n)."""
        return logits.softmax(dim=1)
