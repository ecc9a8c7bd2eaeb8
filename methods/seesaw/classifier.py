"""Seesaw loss (CVPR 2021): a softmax pushes rarer categories down less, unless a row is mistaken for them.

``seesaw_loss.py`` of MMDetection 2.21. Whether a RoI is an object at all is a softmax of two more outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier, RunningSum
from benchmark.statistics import ClassStatistics


class Seesaw(LinearClassifier):
    """Cosine logits (N, C + 2): the categories, "object", background.

    Args:
        temperature: of the cosines.
        p: power of the mitigation factor; 0: none.
        q: power of the compensation factor; 0: none.
        eps: least own score in the compensation factor.
    """

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        temperature: float = 20.0,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
    ) -> None:
        width = statistics.num_classes + 2
        super().__init__(in_features, statistics, width, cosine={"temperature": temperature})
        self.p, self.q, self.eps = p, q, eps
        self.samples = RunningSum(self.num_classes + 1)

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Means over all RoIs, background included, of the categories' and of the objectness loss.

        A worker counts its own RoIs of the step before it uses the counts.
        """
        own = labels.bincount(minlength=self.num_classes + 1)
        self.samples.add(own)
        classes, objectness = self.row_losses(logits, labels, self.samples.value + own)
        rows = max(len(labels), 1)
        return {"loss_cls_classes": classes.sum() / rows, "loss_cls_objectness": objectness.sum() / rows}

    def row_losses(self, logits: Tensor, labels: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the rows: that of the categories, foreground rows (F,) only, and objectness (N,).

            foreground:  CE(z_n + log(m_n c_n), y_n) over the categories
            all:         CE((z_object, z_background), whether n is background)

        Args:
            logits: z (N, C + 2).
            labels: (N,).
            samples: S (C + 1,), RoIs of each label so far.
        """
        background = labels == self.num_classes
        z, y = logits[~background, : self.num_classes], labels[~background]
        factors = self.factors(z.detach(), y, samples[:-1].to(z.dtype))
        classes = F.cross_entropy(z + factors.log(), y, reduction="none")
        return classes, F.cross_entropy(logits[:, self.num_classes :], background.long(), reduction="none")

    def factors(self, logits: Tensor, labels: Tensor, samples: Tensor) -> Tensor:
        """m_nj c_nj (F, C) of foreground rows with category i, 1 for j = i; constants for the gradient.

        mitigation    m_nj = min(1, max(S_j, 1) / max(S_i, 1))^p      j was seen less often than i
        compensation  c_nj = max(1, s_nj / max(s_ni, eps))^q          j scores higher than i, s = softmax(z)
        """
        seen, scores = samples.clamp(min=1), logits.softmax(dim=1)
        own = scores.gather(1, labels[:, None]).clamp(min=self.eps)
        mitigation = (seen / seen[labels, None]).clamp(max=1) ** self.p
        compensation = (scores / own).clamp(min=1) ** self.q
        return mitigation * compensation

    def scores(self, logits: Tensor) -> Tensor:
        """softmax over the categories times the object probability, and that of background; rows sum to 1."""
        classes = logits[:, : self.num_classes].softmax(dim=1)
        is_object, background = logits[:, self.num_classes :].softmax(dim=1).split(1, dim=1)
        return torch.cat([classes * is_object, background], dim=1)

    def category_weights(self) -> Tensor:
        """The rows of the categories."""
        return self.linear.weight[: self.num_classes]
