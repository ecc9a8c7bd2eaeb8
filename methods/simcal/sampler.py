"""The image level of SimCal's bi-level sampling: a category, then an image that contains it."""

import numpy as np
from numpy.typing import NDArray

from benchmark.sampling import CategoryStream, LabelledImages
from benchmark.seeds import derive_seed


def category_first(images: LabelledImages, seed: int, exponent: float = 0.0) -> CategoryStream:
    """The sampler: categories drawn with ``draw_probabilities``, images of a category uniformly."""
    return CategoryFirstStream(images, draw_probabilities(images.instance_counts, exponent), seed)


def draw_probabilities(
    instance_counts: NDArray[np.int64], exponent: float = 0.0, cap: int = 100
) -> NDArray[np.float64]:
    """p_j proportional to min(c_j, cap)^exponent, c_j > 0 (Wang et al., arXiv 2007.11978).

    Args:
        instance_counts: c (C,).
        exponent: tau; 0, as released, draws every category equally often.
        cap: count from which categories have equal probability.
    """
    counts = np.asarray(instance_counts, dtype=np.float64)
    weights = np.where(counts > 0, np.minimum(counts, cap) ** exponent, 0.0)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


class CategoryFirstStream(CategoryStream):
    """Independent draws of a category and then, uniformly, of an image that contains it.

    An epoch is as many draws as there are images.

    Args:
        images: to draw from.
        probabilities: of the categories, (C,); 0 for one that no image contains.
        seed: as of any stream.
    """

    def __init__(self, images: LabelledImages, probabilities: NDArray[np.float64], seed: int) -> None:
        # one pair for each category in an image; sorted by category, its images are a run
        pairs = np.array(
            [(label, index) for index, present in enumerate(images.labels) for label in set(present)]
        )
        self._images = pairs[np.lexsort(pairs.T[::-1]), 1]
        self._counts = np.bincount(pairs[:, 0], minlength=len(probabilities))
        self._starts = np.cumsum(self._counts) - self._counts
        self._probabilities = probabilities
        super().__init__(np.ones(len(images)), seed)

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, "category draw", epoch))
        count = len(self.repeat_factors)
        self.drawn = generator.choice(len(self._probabilities), size=count, p=self._probabilities)
        return self._images[self._starts[self.drawn] + generator.integers(self._counts[self.drawn])]
