"""LOCE's memory-augmented feature sampling (MFS): features of objects, drawn for categories with low scores.

``mfs.py`` of the release, as functions of its random draws. No training uses them yet, because losses get
neither features nor boxes (README.md).
"""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

EPSILON = 1e-7  # 10e-8 in the release: the score of a category that never scores
SHARE = 6  # a corner moves by up to this fraction of width or height


class FeatureMemory:
    """A ring of Q slots for each of C categories.

    Args:
        num_classes: C.
        slots: Q.
        shape: of a feature; (256, 7, 7) in the release.
    """

    def __init__(self, num_classes: int, slots: int, shape: Sequence[int]) -> None:
        self.slots = slots
        self.features = torch.zeros(num_classes, slots, *shape)
        self.filled = torch.zeros(num_classes, dtype=torch.int64)
        self.pointers = torch.zeros(num_classes, dtype=torch.int64)  # slot after the last written, 0..Q

    def write(self, labels: Tensor, features: Tensor) -> None:
        """Store features (N, ...) of labels (N,): the first Q of each label, from its pointer on."""
        for label in labels.unique().tolist():
            new = features[labels == label][: self.slots].to(self.features)
            places = (self.pointers[label] + torch.arange(len(new))) % self.slots
            self.features[label, places] = new
            self.pointers[label] = places[-1] + 1
            self.filled[label] = (self.filled[label] + len(new)).clamp(max=self.slots)

    def read(self, categories: Tensor, draw: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Features (K, ...) and their labels (K,) for every drawn category with stored features.

        Args:
            categories: drawn categories (D,), with repeats.
        draw: draws slot numbers below a count, with replacement; as many as features per draw.
        """
        there = [label for label in categories.tolist() if self.filled[label] > 0]
        found = [(label, draw(int(self.filled[label]))) for label in there]
        labels = [torch.full((len(slots),), label, dtype=torch.int64) for label, slots in found]
        features = [self.features[label, slots] for label, slots in found]
        return torch.cat([self.features[0, :0], *features]), torch.cat([categories[:0], *labels])


def drawn_categories(mean_score: Tensor, uniform: Tensor) -> Tensor:
    """Categories (D,) for D numbers in [0, 1), ascending: p_k = w_k / sum_j w_j with w = 1 / (m + 1e-7).

    Args:
        mean_score: m (C,) of the categories, without background.
        uniform: the numbers; one above the sum of all p, which rounding may leave below 1, draws nothing.
    """
    inverse = 1 / (mean_score + EPSILON)
    found = torch.searchsorted((inverse / inverse.sum()).cumsum(dim=0), uniform.sort().values)
    return found[found < len(mean_score)]


def jittered_boxes(boxes: Tensor, uniform: Tensor, height: int, width: int) -> Tensor:
    """Sixteen boxes around each of G, (16 G, 4) in pixels: x' = x + e r w / 6, all sign combinations e.

    Args:
        boxes: (G, 4) as x1, y1, x2, y2.
        uniform: r (4, 16) in [0, 1), the same for all boxes of an image.
        height: of the image in pixels, as ``width``; boxes are clipped to its last pixels.
    """
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=boxes.dtype)] * 4)  # (16, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes[:, None] + signs * uniform.T * sizes[:, None] / SHARE
    last = torch.tensor([width, height, width, height], dtype=boxes.dtype) - 1
    return moved.clamp(min=0).minimum(last).flatten(0, 1)


def images_of_first_pass(
    categories_of_images: Sequence[Sequence[int]], processes: int, images_per_category: int
) -> list[list[int]]:
    """The images of each process in the pass that fills the memory, by their positions in the dataset.

    For every category in order of appearance, ``images_per_category`` images for each process: its images in
    order, repeated if there are too few, distributed to the processes in turn.
    """
    images: dict[int, list[int]] = {}
    for number, categories in enumerate(categories_of_images):
        for category in dict.fromkeys(categories):
            images.setdefault(category, []).append(number)
    dealt: list[list[int]] = [[] for _ in range(processes)]
    for own in images.values():
        for turn, number in enumerate(islice(cycle(own), processes * images_per_category)):
            dealt[turn % processes].append(number)
    return dealt
