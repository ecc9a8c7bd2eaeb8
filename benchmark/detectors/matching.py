"""Assignment of anchors and RoIs to objects, and the draw of those that a training step uses."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from benchmark.images import Target
from benchmark.seeds import derive_seed


@dataclass(frozen=True)
class MatchingRule:
    """A box is foreground from the IoU ``foreground`` on, and background from ``nearest`` to below
    ``background``.

    The box with the highest IoU with an object is also foreground if this IoU is at least ``low_quality``
    (None: never). With ``own_targets`` it is assigned to that object, else to the object that it overlaps
    most.
    """

    foreground: float
    background: float
    nearest: float = 0.0
    low_quality: float | None = None
    own_targets: bool = False

    def match(self, boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Assign each of the boxes (n, 4) to one of the objects with boxes ``truth`` (k, 4).

        Returns:
            Indices (n,) of the objects and kinds (n,): 1 foreground, 0 background, -1 neither. Without
            objects everything is background.
        """
        if len(truth) == 0 or len(boxes) == 0:
            nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            return nothing, nothing.clone()
        overlap = box_iou(truth, boxes)
        most, matches = overlap.max(dim=0)
        kinds = torch.full_like(matches, -1)
        kinds[(most < self.background) & (most >= self.nearest)] = 0
        kinds[most >= self.foreground] = 1
        if self.low_quality is not None:
            best = overlap.amax(dim=1, keepdim=True)
            objects, chosen = ((overlap == best) & (best >= self.low_quality) & (best > 0)).nonzero(
                as_tuple=True
            )
            kinds[chosen] = 1
            if self.own_targets:  # if there are several objects, the last one
                claims = torch.full_like(matches, -1).scatter_reduce(0, chosen, objects, "amax")
                matches = torch.where(claims >= 0, claims, matches)
        return matches, kinds


def generator_of(target: Target, purpose: str) -> torch.Generator | None:
    """Generator of an image's draws for a purpose, always on the CPU; None for PyTorch's default
    generator."""
    if target.seed is None:
        return None
    return torch.Generator().manual_seed(derive_seed(target.seed, purpose))


def draw(kinds: Tensor, size: int, positive_fraction: float, generator: torch.Generator | None) -> Tensor:
    """Indices of the boxes that are drawn of one image, in ascending order.

    Args:
        kinds: (n,) 1 for foreground, 0 for background, -1 for boxes that are never drawn.
        size: number of boxes to draw; fewer if there are not enough.
        positive_fraction: largest fraction of ``size`` that is foreground.
        generator: the generator of the image's draws, on the CPU.
    """
    drawn: list[Tensor] = []
    left = size
    for kind, most in ((1, int(size * positive_fraction)), (0, size)):
        found = (kinds == kind).nonzero().squeeze(1)
        drawn.append(found[_distinct_numbers(len(found), min(most, left), generator).to(found.device)])
        left -= len(drawn[-1])
    return torch.cat(drawn).sort().values


def _distinct_numbers(count: int, most: int, generator: torch.Generator | None) -> Tensor:
    """At most ``most`` different numbers below ``count``, with equal probability."""
    if count <= 8 * most:
        return torch.randperm(count, generator=generator)[:most]
    # for hundreds of thousands of anchors: draw with replacement until enough numbers differ
    numbers: dict[int, None] = {}
    while len(numbers) < most:
        numbers |= dict.fromkeys(torch.randint(count, (2 * most,), generator=generator).tolist())
    return torch.tensor(list(numbers)[:most], dtype=torch.int64)
