"""The sigmoid baseline of the GOL paper: C + 1 independent sigmoids (``BBoxHead`` of mmdetection)."""

from typing import Literal

from torch import Tensor

from benchmark.classifiers import LinearClassifier, constant_, one_hot, sigmoid_loss
from benchmark.statistics import ClassStatistics


class SigmoidWithBackground(LinearClassifier):
    """Logits (N, C + 1); background is one of the categories, positive in background rows.

    Args:
        initial_weight: initial value of all weights of the classifier.
        initial_bias: initial value of all biases; the score at -6.5 is 0.0015.
        score_link: "sigmoid", as trained, or "softmax", which the released test code applies.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        initial_weight: float = 0.001,
        initial_bias: float = -6.5,
        score_link: Literal["sigmoid", "softmax"] = "sigmoid",
    ) -> None:
        super().__init__(in_features, statistics, width=statistics.num_classes + 1)
        if score_link not in ("sigmoid", "softmax"):
            raise TypeError(f"score_link is sigmoid or softmax, not {score_link!r}")
        constant_(self.linear, initial_weight, initial_bias)
        self.score_link = score_link

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L = (1/N) sum_nj bce(sigmoid(z_nj), t_nj), t one-hot over categories and background."""
        targets = one_hot(labels, self.num_classes + 1, logits.dtype)
        return {"loss_cls": sigmoid_loss(logits, targets).sum() / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        """sigmoid(z_nj), or softmax(z_n)."""
        return logits.sigmoid() if self.score_link == "sigmoid" else logits.softmax(dim=1)
