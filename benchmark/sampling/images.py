"""The training images as a sampler sees them: the categories in each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledImages:
    """The images of a stage, in order.

    Args:
        labels: of the annotations of each image, in ``0..C-1`` with repeats; may be empty.
        num_classes: C.
    """

    labels: Sequence[Sequence[int]]
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def image_counts(self) -> NDArray[np.int64]:
        """Images with each category, (C,)."""
        return self._counts(set(present) for present in self.labels)

    @cached_property
    def instance_counts(self) -> NDArray[np.int64]:
        """Annotations of each category, (C,)."""
        return self._counts(self.labels)

    def _counts(self, images: Iterable[Iterable[int]]) -> NDArray[np.int64]:
        labels = np.fromiter((label for labels in images for label in labels), np.int64)
        return np.bincount(labels, minlength=self.num_classes)
