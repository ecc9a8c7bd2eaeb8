"""Class-aware sampling of images, as in ``class_balance_dataset_wrapper.py`` of EQL v2's release."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from benchmark.sampling import CategoryStream, LabelledImages
from benchmark.seeds import derive_seed

Order = Callable[[int], Sequence[int] | np.ndarray]
ImageOrder = Callable[[int, int], Sequence[int] | np.ndarray]


def class_aware(images: LabelledImages, seed: int) -> CategoryStream:
    """The sampler."""
    return ClassAwareStream(images, seed)


def class_aware_draws(
    images_of: Sequence[np.ndarray], order: Order, image_order: ImageOrder, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Category and image of the draws from ``start`` to ``stop``.

    Every block of draws has each category once. In every round of its draws, a category has each of its
    images once, regardless of the number of annotations.

    Args:
        images_of: the images (n_k,) with each category, in ascending order; a category without images is
            never drawn.
        order: the labels of the drawn categories in the order of a block.
        image_order: positions in ``images_of`` of a category's images, in the order of one of its rounds.
        start: first draw.
        stop: the one after the last draw.
    """
    drawn = sum(len(images) > 0 for images in images_of)
    order_of = cache(order)
    images_in = cache(lambda label, round_: images_of[label][image_order(label, round_)])
    labels, indices = [], []
    for draw in range(start, stop):
        block, place = divmod(draw, drawn)
        label = int(order_of(block)[place])
        round_, turn = divmod(block, len(images_of[label]))
        labels.append(label)
        indices.append(images_in(label, round_)[turn])
    return np.array(labels), np.array(indices)


class ClassAwareStream(CategoryStream):
    """The draws of ``class_aware_draws``; an epoch has as many draws as there are images, and is shuffled.

    Args:
        images: to draw from.
        seed: as of any stream.
    """

    def __init__(self, images: LabelledImages, seed: int) -> None:
        of: list[list[int]] = [[] for _ in range(images.num_classes)]
        for index, labels in enumerate(images.labels):
            for label in set(labels):
                of[label].append(index)
        self._images_of = [np.array(indices, np.int64) for indices in of]
        self._present = np.array([label for label, indices in enumerate(of) if indices])
        super().__init__(np.ones(len(images)), seed)

    def _shuffled(self, epoch: int) -> np.ndarray:
        def generator(purpose: str, *number: int) -> np.random.Generator:
            return np.random.default_rng(derive_seed(self.seed, purpose, *number))

        length = len(self.repeat_factors)
        labels, indices = class_aware_draws(
            self._images_of,
            lambda block: generator("category order", block).permutation(self._present),
            lambda label, round_: generator("images of", label, round_).permutation(
                len(self._images_of[label])
            ),
            epoch * length,
            (epoch + 1) * length,
        )
        dealt = generator("image order", epoch).permutation(length)
        self.drawn = labels[dealt]
        return indices[dealt]
