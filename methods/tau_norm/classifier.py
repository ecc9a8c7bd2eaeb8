"""tau-normalised classifiers (rows 12 and 13 of the BAGS table; Kang et al., ICLR 2020)."""

import torch
from torch import Tensor, nn

from benchmark.classifiers import CategoricalClassifier
from benchmark.statistics import ClassStatistics, warn_unless_divided


def tau_normalised(weight: Tensor, tau: float) -> Tensor:
    """w_j / ||w_j||^tau for every row of a weight (L, D); a row of zeros stays zero."""
    norms = weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return torch.where(weight.any(dim=1, keepdim=True), weight / norms**tau, weight)


def select_scores(original: Tensor, normalised: Tensor, few: Tensor) -> Tensor:
    """Rows of ``normalised`` if the proposal is a category with few training instances, else of ``original``.

    A proposal is such a category if its highest original score is not background and its highest normalised
    score is a category with few instances.

    Args:
        original: scores (N, C + 1), background last.
        normalised: the same from the normalised weights.
        few: (C,) bool.

    Returns:
        Scores (N, C + 1).
    """
    foreground = original.argmax(dim=1) < len(few)
    chosen = torch.cat([few, few.new_zeros(1)])[normalised.argmax(dim=1)]
    return torch.where((foreground & chosen)[:, None], normalised, original)


class TauNormSelect(CategoricalClassifier):
    """The trained softmax classifier beside a copy with normalised rows: logits (N, 2 (C + 1)).

    Args:
        tail_threshold: categories with fewer training instances may use the copy's scores.
    """

    few: Tensor  # (C,) bool

    def __init__(self, in_features: int, statistics: ClassStatistics, tail_threshold: int = 100) -> None:
        super().__init__(in_features, statistics)
        self.copy = nn.Linear(in_features, self.num_classes + 1)
        self.copy.load_state_dict(self.linear.state_dict())
        few = statistics.instance_counts < tail_threshold
        setting, group = f"tail_threshold {tail_threshold}", "scored by the normalised copy"
        warn_unless_divided(few, setting, group, "training instances", statistics.instance_counts)
        self.register_buffer("few", torch.as_tensor(few), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the trained classifier, then those of the copy."""
        return torch.cat([self.linear(features), self.copy(features)], dim=1)

    def category_weights(self) -> Tensor:
        """Rows of the copy for categories with few instances, else of the trained classifier."""
        return torch.where(self.few[:, None], self.copy.weight[:-1], self.linear.weight[:-1])

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the trained classifier; the copy is computed, not trained."""
        return super().loss(logits[:, : self.num_classes + 1], labels)

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax scores of one of the two, proposal by proposal."""
        original, copy = logits.split(self.num_classes + 1, dim=1)
        return select_scores(original.softmax(dim=1), copy.softmax(dim=1), self.few)
