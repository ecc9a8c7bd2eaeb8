"""Balanced Group Softmax (CVPR 2020): categories compete only with categories of similar frequency.

Bin 0 of the logits is (background, foreground); bin g >= 1 is ("others", then the categories of group g).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.classifiers import LinearClassifier
from benchmark.statistics import ClassStatistics, Groups, counted_groups, warn_of_empty_groups


def draw_others(targets: Tensor, others_ratio: float) -> Tensor:
    """Which proposals take part in each bin's loss.

    In a group with foreground F, int(beta |F|) of the other proposals are drawn without replacement,
    separately for every bin and call. A group without foreground is inactive; bin 0 uses all proposals.

    Args:
        targets: in-bin targets (B, N), 0 meaning "others" in bins >= 1.
        others_ratio: beta.

    Returns:
        Weights (B, N), bool.
    """
    weights = targets > 0
    weights[0] = True
    for target, weight in zip(targets[1:], weights[1:], strict=True):
        others = (target == 0).nonzero().squeeze(1)
        count = int(others_ratio * int(weight.sum()))
        if count < len(others):
            others = others[torch.randperm(len(others))[:count].to(others.device)]
        if count:
            weight[others] = True
    return weights


def group_softmax_losses(bins: Sequence[Tensor], targets: Tensor, weights: Tensor) -> list[Tensor]:
    """L_i = sum_n w_in CE(z_n of bin i, t_in) / max(sum_n w_in, 1) for every bin i.

    Args:
        bins: logits of each bin, (N, length of the bin).
        targets: in-bin targets (B, N), int64.
        weights: (B, N), the weight of a proposal, or 0 if it is not used.
    """
    return [
        (weight * F.cross_entropy(logits, target, reduction="none")).sum() / weight.sum().clamp(min=1)
        for logits, target, weight in zip(bins, targets, weights, strict=True)
    ]


class GroupSoftmax(LinearClassifier):
    """One softmax per group of categories and one for background against foreground.

    Args:
        edges: a category with c training instances is in the group of the first edge above c.
        others_ratio: beta, drawn "others" per foreground proposal of a group.
        reweighted: categories of a group are weighted by their inverse count, "others" by 1.
        groups: the groups and those weights, read from the intermediate files; None: made from the counts.
    """

    targets: Tensor  # (B, C + 1) in-bin target of every label
    columns: Tensor  # (C,) logit column of every category
    group: Tensor  # (C,) bin of every category
    label_weights: Tensor  # (B, C + 1) weight of every label in every bin

    def __init__(
        self,
        in_features: int,
        statistics: ClassStatistics,
        edges: Sequence[int] = (10, 100, 1000),
        others_ratio: float = 8.0,
        reweighted: bool = False,
        groups: Groups | None = None,
    ) -> None:
        groups = groups or counted_groups(statistics.instance_counts, edges)
        tables = groups.tables
        warn_of_empty_groups(tables, edges, statistics.instance_counts)
        super().__init__(in_features, statistics, width=tables.width)
        self.others_ratio = others_ratio
        self.lengths = [int(length) for _, length in tables.slices]
        targets, starts = torch.as_tensor(tables.targets), torch.as_tensor(tables.slices[:, 0])
        group = torch.as_tensor(tables.group_of_label)
        labels = torch.arange(self.num_classes)
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("columns", starts[group] + targets[group, labels], persistent=False)
        self.register_buffer("group", group, persistent=False)
        label_weights = torch.ones(targets.shape)
        if reweighted:
            label_weights = torch.as_tensor(groups.weights).float()
        self.register_buffer("label_weights", label_weights, persistent=False)

    def category_weights(self) -> Tensor:
        """Every category's row in its group."""
        return self.linear.weight[self.columns]

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One loss per bin; their plain sum is the classification loss."""
        targets = self.targets[:, labels]
        weights = draw_others(targets, self.others_ratio) * self.label_weights[:, labels]
        losses = group_softmax_losses(logits.split(self.lengths, dim=1), targets, weights)
        return {f"loss_cls_bin{i}": loss for i, loss in enumerate(losses)}

    def scores(self, logits: Tensor) -> Tensor:
        """p(j) = p_0(foreground) p_g(j), g the group of j, and p(background) = p_0(background).

        Rows are not renormalised: they sum to anything between 0 and the number of groups.
        """
        probabilities = torch.cat([z.softmax(dim=1) for z in logits.split(self.lengths, dim=1)], dim=1)
        background, foreground = probabilities[:, :1], probabilities[:, 1:2]
        return torch.cat([foreground * probabilities[:, self.columns], background], dim=1)
